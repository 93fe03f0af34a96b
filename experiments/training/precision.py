"""Precisions of a training, see docs/precision.md."""

import torch
from omegaconf import DictConfig

from tracegrad.errors import ConfigError

SUPPORTED = ("32-true", "64-true", "bf16-mixed", "16-mixed")
# Precisions that Lightning has and TraceGrad does not support, and what to use instead.
INSTEAD = {
    "bf16": "bf16-mixed",
    "16": "16-mixed",
    "bf16-true": "bf16-mixed",
    "16-true": "bf16-mixed (on GPUs also 16-mixed)",
    "transformer-engine": "bf16-mixed",
    "transformer-engine-float16": "16-mixed",
}
ALIASES = {"None": "32-true", "32": "32-true", "64": "64-true"}


def check_precision(trainer: DictConfig, dtype: str) -> None:
    """Check the precision before any data are read.

    Raises:
        ConfigError: the precision is not supported, needs a GPU that is not there, or does not fit to ``dtype``.
    """
    named = str(trainer.precision)
    precision = ALIASES.get(named, named)
    if precision in INSTEAD:
        raise ConfigError(f"trainer.precision={named} is not supported; use {INSTEAD[precision]}")
    if precision not in SUPPORTED:
        raise ConfigError(f"trainer.precision={named} is unknown; choose one of {', '.join(SUPPORTED)}")
    if (precision == "64-true") != (dtype == "float64"):
        raise ConfigError(
            f"trainer.precision={named} and data.dtype={dtype} do not fit; "
            "double precision needs trainer.precision=64-true and data.dtype=float64"
        )
    if precision == "16-mixed" and on_cpu(trainer):
        raise ConfigError("trainer.precision=16-mixed needs a GPU; use bf16-mixed or 32-true on CPUs")


def on_cpu(trainer: DictConfig) -> bool:
    """Whether a trainer with these settings computes on CPUs."""
    if trainer.accelerator == "auto":
        return not (torch.cuda.is_available() or torch.backends.mps.is_available())
    return trainer.accelerator == "cpu"
