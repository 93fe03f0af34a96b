"""The precisions of a training, see docs/precision.md."""

import torch
from omegaconf import DictConfig

from tracegrad.errors import ConfigError

OFFERED = ("32-true", "64-true", "bf16-mixed", "16-mixed")
# Lightning's other names, and what to take instead.
INSTEAD = {
    "bf16": "bf16-mixed",
    "16": "16-mixed",
    "bf16-true": "bf16-mixed",
    "16-true": "bf16-mixed (GPUs: 16-mixed, too)",
    "transformer-engine": "bf16-mixed",
    "transformer-engine-float16": "16-mixed",
}
ALIASES = {"None": "32-true", "32": "32-true", "64": "64-true"}


def check_precision(trainer: DictConfig, dtype: str) -> None:
    """Refuse what does not work, before anything is read.

    Args:
        trainer: settings of the trainer.
        dtype: of the data, float32 or float64.

    Raises:
        ConfigError: a precision that is not offered or needs a GPU that is not there, or data of another one.
    """
    named = str(trainer.precision)
    precision = ALIASES.get(named, named)
    if precision in INSTEAD:
        raise ConfigError(f"trainer.precision={named} is not offered; take {INSTEAD[precision]}")
    if precision not in OFFERED:
        raise ConfigError(f"trainer.precision={named} is unknown; choose one of {', '.join(OFFERED)}")
    if (precision == "64-true") != (dtype == "float64"):
        raise ConfigError(
            f"trainer.precision={named} and data.dtype={dtype} do not fit; "
            "double precision needs trainer.precision=64-true and data.dtype=float64"
        )
    if precision == "16-mixed" and on_cpu(trainer):
        raise ConfigError("trainer.precision=16-mixed needs a GPU; take bf16-mixed or 32-true on CPUs")


def on_cpu(trainer: DictConfig) -> bool:
    """Whether the trainer that these settings make computes on CPUs."""
    if trainer.accelerator == "auto":
        return not (torch.cuda.is_available() or torch.backends.mps.is_available())
    return trainer.accelerator == "cpu"
