"""Forecast of the time of a training from the times of a few of its batches."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from callbacks.step_times import BatchTimes

LIGHTNING_EPOCHS = 1000  # Lightning's limit if neither max_steps nor max_epochs is set
MOST_WAITING = 0.03  # share of the time that may be spent waiting for data without a word


@dataclass(frozen=True)
class TrainingLength:
    """Number of steps and validations of a training; None: it trains until it is stopped."""

    steps_per_epoch: int
    steps: int | None
    validations: int | None


def training_length(batches: int, trainer: Mapping[str, Any], *, last_step_validated: bool) -> TrainingLength:
    """Number of steps and validations of a training.

    Args:
        last_step_validated: whether there is a validation after the last step even inside an epoch.
    """
    per_epoch = ceil(batches / (trainer.get("accumulate_grad_batches") or 1))
    max_steps, max_epochs = trainer.get("max_steps", -1), trainer.get("max_epochs")
    if max_epochs is None:
        max_epochs = LIGHTNING_EPOCHS if max_steps < 0 else -1
    limits = [max_steps] if max_steps >= 0 else []
    limits += [max_epochs * per_epoch] if max_epochs >= 0 else []
    if not limits:
        return TrainingLength(per_epoch, None, None)
    steps = min(limits)
    every = per_epoch * (trainer.get("check_val_every_n_epoch") or 1)
    extra = last_step_validated and steps == max_steps and steps % every > 0
    return TrainingLength(per_epoch, steps, steps // every + extra)


def worker_advice(times: BatchTimes, workers: int, cores: int) -> str | None:
    """Advice if waiting for data takes more than `MOST_WAITING` of the time, else None."""
    if times.waiting <= MOST_WAITING:
        return None
    mean_wait = sum(times.waits) / len(times.waits)
    loss = f"{times.waiting:.0%} of the time is spent waiting for data ({mean_wait:.3g} s per batch)"
    if workers + 1 < cores:
        return f"{loss}: try data.num_workers={min(max(2 * workers, 2), cores - 1)} (now {workers}; {cores} cores)"
    return f"{loss}, and no core is left for more workers ({workers} of {cores}): try a faster disk or data.cache"


def duration(seconds: float) -> str:
    """A time in seconds as text with a suitable unit."""
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.3g} s"


def size(number: float) -> str:
    """A number of bytes as text with a suitable unit."""
    for unit, length in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= length:
            return f"{number / length:.3g} {unit}"
    return f"{number:.0f} B"
