"""Times of batches, from which the time of a whole training is forecast."""

import time
from dataclasses import dataclass
from typing import Any

import lightning
import torch
from lightning import Callback


@dataclass(frozen=True)
class BatchTime:
    """Seconds of waiting for one batch, and of the work on it."""

    index: int
    wait: float
    work: float


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
        self.training: list[BatchTime] = []
        self.validation: list[BatchTime] = []
        self._ended = self._started = 0.0  # of the previous and of the present batch

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)
        self._ended = _now(pl_module)

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._started = _now(pl_module)

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        batch_time = self._time(pl_module, batch_idx)
        if batch_idx < self.warm_up:
            return
        self.training.append(batch_time)
        spent = sum(entry.wait + entry.work for entry in self.training)
        if len(self.training) >= self.at_least and spent >= self.seconds:
            trainer.should_stop = True

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._ended = _now(pl_module)

    def on_validation_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._started = _now(pl_module)

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.validation.append(self._time(pl_module, batch_idx))

    def _time(self, pl_module: lightning.LightningModule, batch_idx: int) -> BatchTime:
        ended = _now(pl_module)
        batch_time = BatchTime(batch_idx, self._started - self._ended, ended - self._started)
        self._ended = ended
        return batch_time


def _now(pl_module: lightning.LightningModule) -> float:
    """The present time (s), read when the device has finished its work."""
    if pl_module.device.type == "cuda":
        torch.cuda.synchronize(pl_module.device)
    return time.perf_counter()
