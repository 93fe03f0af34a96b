"""What a training will take, from what a few of its steps took."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median
from typing import Any

LIGHTNING_EPOCHS = 1000  # where neither steps nor epochs are limited by max_epochs=null
MOST_WAITING = 0.03  # share of the time that data may take
# Of metrics.csv, rounded up from runs of the demo: losses and the rate each time, metrics after a validation.
ROW_BYTES = 150
ROWS_A_LOG, ROWS_A_VALIDATION = 2, 2


@dataclass(frozen=True)
class Length:
    """How long a training goes on; None: until it is stopped."""

    steps_per_epoch: int
    steps: int | None
    validations: int | None


def training_length(batches: int, trainer: Mapping[str, Any], *, last_step_validated: bool) -> Length:
    """Steps and validations of a training with so many batches an epoch and these settings of the trainer."""
    per_epoch = ceil(batches / (trainer.get("accumulate_grad_batches") or 1))
    max_steps, max_epochs = trainer.get("max_steps", -1), trainer.get("max_epochs")
    if max_epochs is None:
        max_epochs = LIGHTNING_EPOCHS if max_steps < 0 else -1
    limits = [max_steps] if max_steps >= 0 else []
    limits += [max_epochs * per_epoch] if max_epochs >= 0 else []
    if not limits:
        return Length(per_epoch, None, None)
    steps = min(limits)
    every = per_epoch * (trainer.get("check_val_every_n_epoch") or 1)
    extra = last_step_validated and steps == max_steps and steps % every > 0
    return Length(per_epoch, steps, steps // every + extra)


@dataclass(frozen=True)
class Measured:
    """Times of batches (s) with what they cost (see `TrainingBatches`), and what else was found on one process.

    ``mean_cost`` is that of all batches of an epoch; ``val_cost`` and ``test_cost`` are those of the whole parts. All
    of them are of one process of ``world``; ``batch_size`` is over all processes. ``device`` is the name of the GPU
    whose memory is meant; "" is the CPU.
    """

    costs: Sequence[float]
    work: Sequence[float]
    waits: Sequence[float]
    mean_cost: float
    val_costs: Sequence[float]
    val_seconds: Sequence[float]
    val_cost: float
    test_cost: float
    peak_bytes: int
    memory_bytes: int
    checkpoint_bytes: int
    batch_size: float
    device: str
    accumulated: int = 1
    world: int = 1

    @property
    def step_seconds(self) -> list[float]:
        """Of each timed batch with the wait for it."""
        return [work + wait for work, wait in zip(self.work, self.waits, strict=True)]

    @property
    def mean_step(self) -> float:
        """Seconds of a step of the training, scaled from the timed batches to all of an epoch."""
        return self.accumulated * sum(self.step_seconds) / sum(self.costs) * self.mean_cost

    @property
    def waiting(self) -> float:
        """Share of the time that is spent waiting for data."""
        return sum(self.waits) / sum(self.step_seconds)

    @property
    def samples_per_second(self) -> float:
        """Over all processes."""
        return self.accumulated * self.batch_size / self.mean_step

    def validation(self) -> float:
        """Seconds of a validation."""
        return sum(self.val_seconds) / sum(self.val_costs) * self.val_cost

    def test(self) -> float:
        """Seconds of the predictions of the test."""
        return sum(self.val_seconds) / sum(self.val_costs) * self.test_cost

    def total(self, length: Length) -> float | None:
        """Seconds of steps and validations; None where the training has no end."""
        if length.steps is None or length.validations is None:
            return None
        return length.steps * self.mean_step + length.validations * self.validation()

    def spread(self) -> tuple[float, float, float]:
        """Median, least and most seconds of a timed batch."""
        return median(self.step_seconds), min(self.step_seconds), max(self.step_seconds)


def log_bytes(length: Length, log_every: int) -> int | None:
    """About the size of ``metrics.csv`` at the end."""
    if length.steps is None or length.validations is None:
        return None
    rows = ROWS_A_LOG * (length.steps // max(log_every, 1)) + ROWS_A_VALIDATION * length.validations
    return rows * ROW_BYTES


def worker_advice(waiting: float, workers: int, cores: int, mean_wait: float) -> str | None:
    """What to do about waiting for data, where it takes more than `MOST_WAITING`."""
    if waiting <= MOST_WAITING:
        return None
    loss = f"{waiting:.0%} of the time goes into waiting for data ({mean_wait:.3g} s a batch)"
    if workers + 1 < cores:
        return f"{loss}: try data.num_workers={min(max(2 * workers, 2), cores - 1)} (now {workers}; {cores} cores)"
    return f"{loss}, and there are no further cores for workers ({workers} of {cores}): a faster disk, or data.cache"


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    for unit, length in (("days", 172_800), ("h", 7200), ("min", 120)):
        if seconds >= length:
            return f"{seconds / {'days': 86_400, 'h': 3600, 'min': 60}[unit]:.1f} {unit}"
    return f"{seconds:.3g} s"


def size(number: float) -> str:
    """Bytes in the unit that suits them."""
    for unit, length in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= length:
            return f"{number / length:.3g} {unit}"
    return f"{number:.0f} B"
