"""The checkpoint from which a training that was stopped, even killed, is resumed exactly."""

import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from callbacks.csv_log import RunCSVLogger
from tracegrad.data.loading.loader import ResumableLoader
from tracegrad.errors import ConfigError, TrainingError
from tracegrad.system.signals import stop_signals
from tracegrad.weights.file_names import LAST, PREVIOUS

ROWS = "csv_rows"
REQUEUE = signal.SIGUSR1


class TrainingStopped(TrainingError):
    """A signal has ended the run; ``step`` is the optimizer step from which it can be resumed."""

    def __init__(self, number: int, step: int | None = None):
        self.number = number
        where = "" if step is None else f" from step {step}"
        super().__init__(f"stopped by {signal.Signals(number).name}; the same command resumes the run{where}")


class LastCheckpoint(Checkpoint):
    """Saves ``last.ckpt`` after every validation, at intervals between two steps, and when a signal arrives.

    SIGINT, SIGTERM, SIGHUP (unless it is ignored) and, in a SLURM job, SIGUSR1 end the training with
    `TrainingStopped`: after the present step and with a checkpoint; during a validation on one process at once and
    without a new checkpoint. The checkpoint that was there before is kept as ``previous.ckpt``. A checkpoint stores
    the number of rows of the CSV log; a resumed run cuts the log to this number.

    Args:
        directory: of the checkpoints.
        minutes: time between two checkpoints, counted from the last checkpoint of either kind.
        steps: number of optimizer steps after which a checkpoint is saved, too; None: only the time counts.
    """

    def __init__(self, directory: str | Path, minutes: float = 10.0, steps: int | None = None):
        if not minutes > 0:
            raise ConfigError(f"callbacks.last.minutes is {minutes}; choose a time above 0")
        if steps is not None and steps < 1:
            raise ConfigError(
                f"callbacks.last.steps is {steps}; choose 1 or more (null: only the time counts)"
            )
        self.directory, self.seconds, self.steps = Path(directory), 60 * minutes, steps
        self._signals: list[int] = []
        self._handlers = ExitStack()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step
        requeue = [REQUEUE] if "SLURM_JOB_ID" in os.environ else []
        self._signals = self._handlers.enter_context(stop_signals(*requeue))
        loader = trainer.train_dataloader
        if isinstance(loader, ResumableLoader):
            loader.between_steps = lambda: self._between_steps(trainer, loader.done)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if self._signals and trainer.world_size == 1 and trainer.state.fn == "fit":
            raise TrainingStopped(self._signals[0], self._saved_step)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        self._save(trainer)
        stop, _ = self._agreed(trainer, due=False)
        if stop:
            raise TrainingStopped(stop, trainer.global_step)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.is_global_zero:
            checkpoint[ROWS] = {i: logger.flushed_rows() for i, logger in _csv_loggers(trainer)}

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.is_global_zero and trainer.state.fn == "fit":
            for i, logger in _csv_loggers(trainer):
                logger.keep_rows(checkpoint.get(ROWS, {}).get(i, 0))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._handlers.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._handlers.close()

    def _between_steps(self, trainer: Trainer, batches: int) -> None:
        if batches % trainer.accumulate_grad_batches:
            return  # inside an accumulated step: a checkpoint does not contain its gradients
        done = trainer.global_step - self._saved_step
        late = time.monotonic() - self._saved_at >= self.seconds
        stop, due = self._agreed(trainer, due=late or (self.steps is not None and done >= self.steps))
        if (stop or due) and done:
            self._save(trainer)
        if stop:
            raise TrainingStopped(stop, trainer.global_step)

    def _agreed(self, trainer: Trainer, *, due: bool) -> tuple[int, bool]:
        """Signal (0: none) that any rank has received, and whether for any rank a checkpoint is due."""
        values = (self._signals[0] if self._signals else 0, int(due))
        if trainer.world_size == 1:
            return values[0], due
        largest = torch.tensor(values, device=trainer.strategy.root_device)
        torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
        stop, late = largest.tolist()
        return stop, bool(late)

    def _save(self, trainer: Trainer) -> None:
        last = self.directory / LAST
        if trainer.is_global_zero and last.exists():
            last.replace(self.directory / PREVIOUS)
        trainer.save_checkpoint(last)
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step


def _csv_loggers(trainer: Trainer) -> list[tuple[int, RunCSVLogger]]:
    return [(i, logger) for i, logger in enumerate(trainer.loggers) if isinstance(logger, RunCSVLogger)]
