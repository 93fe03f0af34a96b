"""Building a network from the settings in a checkpoint.

Settings name the classes to build (``_target_``), and a checkpoint may come from an untrusted source. Therefore only
parts of a network are built: torch modules and orbital bases that are defined in this package or in one that the user
allows (see `plugins`). Nothing else is imported or called.
"""

import importlib
import re
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any

from torch import nn

from tracegrad.errors import CheckpointError, TraceGradError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.weights.plugins import advice, is_allowed
from tracegrad.weights.renamed import present_name

# Module, class and optional class method, such as tracegrad.hamiltonian.basis.OrbitalBasis.def2_svp.
_TARGET = re.compile(r"([A-Za-z_]\w*(?:\.[a-z_]\w*)*)\.([A-Z]\w*)(?:\.([a-z]\w*))?")


def construct(settings: Any, where: str) -> Any:
    """Objects described by settings, like ``hydra.utils.instantiate``, but only parts of networks.

    Args:
        settings: nested mappings with ``_target_`` and optionally ``_partial_``, lists and plain values.
        where: source of the settings in messages, such as a file and a key.

    Raises:
        CheckpointError: a target that is no part of a network or in a package that is not allowed, or arguments that
            it does not accept.
    """
    if isinstance(settings, list):
        return [construct(entry, f"{where}[{i}]") for i, entry in enumerate(settings)]
    if not isinstance(settings, Mapping):
        return settings
    values = dict(settings)
    if "_target_" not in values:
        return {key: construct(value, f"{where}.{key}") for key, value in values.items()}
    name, is_partial = present_name(values.pop("_target_")), values.pop("_partial_", False)
    target = _target(name, where)
    reserved = sorted(str(key) for key in values if not isinstance(key, str) or key.startswith("_"))
    if reserved:
        raise CheckpointError(f"{where}: {reserved[0]} is no argument of {name}")
    arguments = {key: construct(value, f"{where}.{key}") for key, value in values.items()}
    if is_partial is True:
        return partial(target, **arguments)
    try:
        return target(**arguments)
    except TraceGradError:
        raise
    except Exception as error:  # settings of another version, or edited ones
        reason = str(error).split("\n", 1)[0]
        raise CheckpointError(
            f"{where}: {name} cannot be built from these settings ({reason}); "
            "use the version of TraceGrad that the checkpoint was trained with"
        ) from error


def _target(name: Any, where: str) -> Callable[..., Any]:
    match = _TARGET.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        raise CheckpointError(_refusal(name, where))
    package = match[1].partition(".")[0]
    if not is_allowed(package):
        raise CheckpointError(
            f"{where}: _target_ is {name!r}, which is no network or basis of TraceGrad and was not imported; "
            f"{advice(package)}"
        )
    member = _member(*match.groups())
    if member is None:
        raise CheckpointError(_refusal(name, where))
    return member


def _refusal(name: Any, where: str) -> str:
    package = name.partition(".")[0] if isinstance(name, str) else "tracegrad"
    owner = f"the installed {package}" if is_allowed(package) and package != "tracegrad" else "TraceGrad"
    return (
        f"{where}: _target_ is {name!r}, which is no network or basis of this version of {owner} and was "
        "not called; build such a model in Python and load the state_dict of the checkpoint into it"
    )


def _member(module: str, name: str, method: str | None) -> Callable[..., Any] | None:
    """The class or class method, None if the module does not have it or it is no part of a network."""
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:
        return None
    owner = vars(importlib.import_module(module)).get(name) if spec else None
    if not isinstance(owner, type) or not is_allowed(owner.__module__.partition(".")[0]):
        return None
    if not issubclass(owner, nn.Module | OrbitalBasis):
        return None
    if method is None:
        return owner
    return getattr(owner, method) if isinstance(vars(owner).get(method), classmethod) else None
