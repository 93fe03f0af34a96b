"""Forecast of the time of a training from the times of a few of its steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median
from typing import Any

LIGHTNING_EPOCHS = 1000  # Lightning's limit if neither max_steps nor max_epochs is set
MOST_WAITING = 0.03  # share of the time that may be spent waiting for data without a word
# Size of metrics.csv, rounded up from runs of the demo: bytes of a row, rows each time that losses and the learning
# rate are logged, and rows of a validation.
ROW_BYTES = 150
ROWS_PER_LOG, ROWS_PER_VALIDATION = 2, 2


@dataclass(frozen=True)
class TrainingLength:
    """Number of steps and validations of a training; None: it trains until it is stopped."""

    steps_per_epoch: int
    steps: int | None
    validations: int | None


def training_length(batches: int, trainer: Mapping[str, Any], *, last_step_validated: bool) -> TrainingLength:
    """Number of steps and validations of a training.

    Args:
        batches: batches of an epoch.
        trainer: settings of the trainer.
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


@dataclass(frozen=True)
class Measured:
    """Measurements of a dry run on one process.

    Costs are those of `TrainingBatches`, for one process of ``world``.

    Attributes:
        costs, work, waits: of each timed training batch: cost, seconds of work on it and seconds of waiting for it.
        mean_cost: mean cost of all batches of an epoch.
        val_costs, val_seconds: of each timed validation batch.
        val_cost, test_cost: of the whole validation and test part.
        peak_bytes, memory_bytes: largest memory in use, and memory of the device.
        checkpoint_bytes: size of a checkpoint.
        batch_size: mean number of samples of a batch, over all processes.
        device: name of the GPU; empty for the CPU.
        accumulated: number of batches of a step.
        world: number of processes of the training.
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
        """Seconds of each timed training batch, with the time of waiting for it."""
        return [work + wait for work, wait in zip(self.work, self.waits, strict=True)]

    @property
    def mean_step(self) -> float:
        """Seconds of a mean step of the training: timed seconds per cost times the mean cost of all batches."""
        return self.accumulated * sum(self.step_seconds) / sum(self.costs) * self.mean_cost

    @property
    def waiting(self) -> float:
        """Share of the time that is spent waiting for data."""
        return sum(self.waits) / sum(self.step_seconds)

    @property
    def samples_per_second(self) -> float:
        """Training samples per second, over all processes."""
        return self.accumulated * self.batch_size / self.mean_step

    def validation(self) -> float:
        """Seconds of a validation."""
        return sum(self.val_seconds) / sum(self.val_costs) * self.val_cost

    def test(self) -> float:
        """Seconds of the predictions in the test."""
        return sum(self.val_seconds) / sum(self.val_costs) * self.test_cost

    def total(self, length: TrainingLength) -> float | None:
        """Seconds of all steps and validations; None if the training has no end."""
        if length.steps is None or length.validations is None:
            return None
        return length.steps * self.mean_step + length.validations * self.validation()

    def spread(self) -> tuple[float, float, float]:
        """Median, lowest and highest seconds of a timed training batch."""
        return median(self.step_seconds), min(self.step_seconds), max(self.step_seconds)


def log_bytes(length: TrainingLength, log_every: int) -> int | None:
    """Approximate size of ``metrics.csv`` after the training; None if the training has no end."""
    if length.steps is None or length.validations is None:
        return None
    rows = ROWS_PER_LOG * (length.steps // max(log_every, 1)) + ROWS_PER_VALIDATION * length.validations
    return rows * ROW_BYTES


def worker_advice(waiting: float, workers: int, cores: int, mean_wait: float) -> str | None:
    """Advice if waiting for data takes more than `MOST_WAITING` of the time, else None.

    Args:
        waiting: share of the time that is spent waiting.
        workers: present number of loading processes.
        cores: available cores.
        mean_wait: seconds of waiting for a batch.
    """
    if waiting <= MOST_WAITING:
        return None
    loss = f"{waiting:.0%} of the time is spent waiting for data ({mean_wait:.3g} s per batch)"
    if workers + 1 < cores:
        return f"{loss}: try data.num_workers={min(max(2 * workers, 2), cores - 1)} (now {workers}; {cores} cores)"
    return f"{loss}, and no core is left for more workers ({workers} of {cores}): try a faster disk or data.cache"


def duration(seconds: float) -> str:
    """A time in seconds as text with a suitable unit."""
    for unit, length in (("days", 172_800), ("h", 7200), ("min", 120)):
        if seconds >= length:
            return f"{seconds / {'days': 86_400, 'h': 3600, 'min': 60}[unit]:.1f} {unit}"
    return f"{seconds:.3g} s"


def size(number: float) -> str:
    """A number of bytes as text with a suitable unit."""
    for unit, length in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= length:
            return f"{number / length:.3g} {unit}"
    return f"{number:.0f} B"
