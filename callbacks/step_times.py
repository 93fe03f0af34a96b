"""Times of batches, from which the time of a whole training is forecast."""

import time
from dataclasses import dataclass, field
from typing import Any

import lightning
import torch
from lightning import Callback


@dataclass
class BatchTimes:
    """Times of some batches.

    Attributes:
        indices: which batches of a loader they are.
        waits: seconds of waiting for each batch.
        work: seconds of the work on each batch.
    """

    indices: list[int] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    work: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> list[float]:
        """Seconds of each batch, with the time of waiting for it."""
        return [work + wait for work, wait in zip(self.work, self.waits, strict=True)]

    @property
    def waiting(self) -> float:
        """Share of the time that is spent waiting for data."""
        return sum(self.waits) / sum(self.seconds)


class StepTimes(Callback):
    """Times the batches of training and validation, and resets the peak memory that a GPU has counted.

    Args:
        warm_up: number of training batches at the start that are not timed.
        at_least: number of training batches to time even if they take longer than ``seconds``.
        seconds: timed seconds after which the training ends.

    Attributes:
        training, validation: times of the batches.
    """

    def __init__(self, warm_up: int, at_least: int, seconds: float):
        self.warm_up, self.at_least, self.seconds = warm_up, at_least, seconds
        self.training, self.validation = BatchTimes(), BatchTimes()
        self._ended = self._started = 0.0  # of the previous and of the present batch

    def on_train_start(self, trainer: Any, pl_module: lightning.LightningModule) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)
        self._ended = _now(pl_module)

    def on_validation_start(self, trainer: Any, pl_module: lightning.LightningModule) -> None:
        self._ended = _now(pl_module)

    def on_train_batch_start(self, trainer: Any, pl_module: lightning.LightningModule, *_: Any) -> None:
        self._started = _now(pl_module)

    def on_validation_batch_start(self, trainer: Any, pl_module: lightning.LightningModule, *_: Any) -> None:
        self._started = _now(pl_module)

    def on_train_batch_end(
        self, trainer: Any, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._record(self.training if batch_idx >= self.warm_up else BatchTimes(), pl_module, batch_idx)
        timed = self.training.seconds
        if len(timed) >= self.at_least and sum(timed) >= self.seconds:
            trainer.should_stop = True

    def on_validation_batch_end(
        self,
        trainer: Any,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        *_: Any,
    ) -> None:
        self._record(self.validation, pl_module, batch_idx)

    def _record(self, times: BatchTimes, pl_module: lightning.LightningModule, batch_idx: int) -> None:
        ended = _now(pl_module)
        times.indices.append(batch_idx)
        times.waits.append(self._started - self._ended)
        times.work.append(ended - self._started)
        self._ended = ended


def _now(pl_module: lightning.LightningModule) -> float:
    """The present time (s), read when the device has finished its work."""
    if pl_module.device.type == "cuda":
        torch.cuda.synchronize(pl_module.device)
    return time.perf_counter()
