"""What batches take, for a forecast of the whole training."""

import time
from dataclasses import dataclass
from typing import Any

import lightning
import torch
from lightning import Callback


@dataclass(frozen=True)
class BatchTime:
    """Seconds of one batch: until it was there, and of the work on it."""

    index: int
    wait: float
    work: float


class StepTimes(Callback):
    """Times the batches of training and validation, and starts the count of the peak memory of a GPU.

    Args:
        warm: training batches that are not timed.
        least: training batches to time in any case.
        seconds: after which the training is ended, once so many are timed.
    """

    def __init__(self, warm: int, least: int, seconds: float):
        self.warm, self.least, self.seconds = warm, least, seconds
        self.training: list[BatchTime] = []
        self.validation: list[BatchTime] = []
        self._ended = self._started = 0.0

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
        found = self._time(pl_module, batch_idx)
        if batch_idx < self.warm:
            return
        self.training.append(found)
        spent = sum(entry.wait + entry.work for entry in self.training)
        if len(self.training) >= self.least and spent >= self.seconds:
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
        found = BatchTime(batch_idx, self._started - self._ended, ended - self._started)
        self._ended = ended
        return found


def _now(pl_module: lightning.LightningModule) -> float:
    """The time at which all work that was given to the device is done."""
    if pl_module.device.type == "cuda":
        torch.cuda.synchronize(pl_module.device)
    return time.perf_counter()
