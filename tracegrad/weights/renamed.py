"""Present names of classes that checkpoints and settings of earlier versions name by their former module."""

from collections.abc import Mapping
from typing import Any

# Former module of a ``_target_`` -> present module.
MODULES = {
    "tracegrad.basis": "tracegrad.hamiltonian.basis",
    "tracegrad.data.datamodule": "tracegrad.data.loading.datamodule",
    "tracegrad.data.deeph_module": "tracegrad.data.loading.deeph_module",
    "tracegrad.loss": "tracegrad.training.loss",
    "tracegrad.model": "tracegrad.model.network",
    "tracegrad.nn.tracegrad": "tracegrad.nn.invariant.tracegrad",
    "tracegrad.schedule": "tracegrad.training.schedule",
}


def with_new_names(settings: Any) -> Any:
    """The settings, with the present name in place of every former ``_target_``."""
    if isinstance(settings, list):
        return [with_new_names(entry) for entry in settings]
    if not isinstance(settings, Mapping):
        return settings
    return {
        key: present_name(value) if key == "_target_" else with_new_names(value)
        for key, value in settings.items()
    }


def present_name(target: Any) -> Any:
    """A target ``module.Class`` or ``module.Class.method`` with its present module; anything else as it is."""
    if not isinstance(target, str):
        return target
    names = target.split(".")
    for end in range(len(names) - 1, 0, -1):
        module = ".".join(names[:end])
        if module in MODULES and names[end][:1].isupper():
            return ".".join([MODULES[module], *names[end:]])
    return target
