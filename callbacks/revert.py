"""Return to an earlier state of a training whose loss has jumped up and does not fall again."""

from math import inf
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from callbacks.checkpoint_io import AtomicCheckpointIO
from callbacks.smoothing import SmoothedLoss, logged
from tracegrad.errors import CheckpointError, ConfigError, TrainingError


class RevertAndDecay(Callback):
    """Returns to the state of the best validation after ``patience`` validations in a row that are much worse.

    Weights, optimizer, schedule and smoothed loss are restored to those at the start of the epoch after the best
    validation. The learning rate is multiplied by ``decay``, and by a further factor ``decay`` for every further
    return to the same validation. A schedule over optimizer steps (`LambdaLR`) is not set back; its present rate is
    multiplied. A schedule that waits for a plateau starts a cooldown. Averaged weights (``callbacks=ema``) are not
    changed. Validations are assumed to be at the ends of epochs.

    Args:
        directory: where the best state is kept as ``revert.ckpt``, and the one before it as ``revert-previous.ckpt``,
            for a run that is resumed from an older checkpoint than its last one.
        patience: number of validations in a row that are much worse.
        ratio: a validation is much worse if its loss is above ``ratio`` times the lowest loss, or not finite.
        decay: factor of the learning rate.
        monitor: log name of the loss.
        max_reverts: number of returns after which a further one ends the training with an error; None: no limit.
    """

    def __init__(
        self,
        directory: str | Path,
        patience: int = 20,
        ratio: float = 2.0,
        decay: float = 0.8,
        monitor: str = "val/loss_h",
        max_reverts: int | None = None,
    ):
        if patience < 1 or not ratio >= 1:
            raise ConfigError(
                f"callbacks.revert.patience is {patience} and callbacks.revert.ratio is {ratio}; "
                "at least 1 validation and a ratio of at least 1 are needed"
            )
        if not 0 < decay <= 1:
            raise ConfigError(f"callbacks.revert.decay is {decay}; choose a factor above 0, at most 1")
        if max_reverts is not None and max_reverts < 0:
            raise ConfigError(
                f"callbacks.revert.max_reverts is {max_reverts}; choose 0 or more (null: no limit)"
            )
        self.path = Path(directory) / "revert.ckpt"
        self.before = Path(directory) / "revert-previous.ckpt"
        self.patience, self.ratio, self.decay = patience, ratio, decay
        self.monitor, self.max_reverts = monitor, max_reverts
        self.reverts = 0
        self._best = inf
        self._best_is_new = False  # the state of the best validation is not yet on the disk
        self._repeats = 0  # reverts to the best validation
        self._bad = 0  # much worse validations in a row

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._best < inf and not self._best_is_new:
            self._choose_state(trainer)  # so that a wrong file is an error now, not when it is needed

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        loss = logged(trainer, self.monitor, "callbacks.revert.monitor")
        self._bad = 0 if loss <= self.ratio * self._best else self._bad + 1
        if loss < self._best:
            self._best, self._best_is_new, self._repeats = loss, True, 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._best_is_new:
            if trainer.is_global_zero:
                self._save_state(trainer, pl_module)
            self._best_is_new = False
        elif self._bad >= self.patience and self._best < inf:
            self._revert(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("train/reverts", float(self.reverts))

    def state_dict(self) -> dict[str, Any]:
        return {
            "reverts": self.reverts,
            "best": self._best,
            "best_is_new": self._best_is_new,
            "repeats": self._repeats,
            "bad": self._bad,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.reverts, self._best = state_dict["reverts"], state_dict["best"]
        self._best_is_new = state_dict["best_is_new"]
        self._repeats, self._bad = state_dict["repeats"], state_dict["bad"]

    def _save_state(self, trainer: Trainer, pl_module: LightningModule) -> None:
        state = {
            "loss": self._best,
            "epoch": trainer.current_epoch,
            "model": pl_module.state_dict(),
            "optimizer": trainer.optimizers[0].state_dict(),
            "schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
            "smoothing": [callback.state_dict() for callback in _smoothings(trainer)],
        }
        if self.path.exists():
            self.path.replace(self.before)
        AtomicCheckpointIO().save_checkpoint(state, self.path)

    def _choose_state(self, trainer: Trainer) -> None:
        """Use ``revert-previous.ckpt`` if it, and not ``revert.ckpt``, belongs to the best validation of this run."""
        if (
            trainer.is_global_zero
            and self.before.exists()
            and self._read_state(self.before)["loss"] == self._best
        ):
            self.before.replace(self.path)
        trainer.strategy.barrier("callbacks.revert")
        self._load_state()

    def _read_state(self, path: Path) -> dict[str, Any]:
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many types of errors for damaged files
            reason = str(error).split("\n", 1)[0]
            raise CheckpointError(
                f"{path}: missing or damaged ({reason}); it belongs to the checkpoints of the run: "
                "restore it, or start the run anew"
            ) from error

    def _load_state(self) -> dict[str, Any]:
        state = self._read_state(self.path)
        if state["loss"] != self._best:
            raise CheckpointError(
                f"{self.path} is of a validation with {self.monitor} = {state['loss']:.6g}, but the best one of "
                f"the run has {self._best:.6g}; restore the file that belongs to the checkpoint, "
                "or start the run anew"
            )
        return state

    def _revert(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trouble = (
            f"{self.monitor} was above {self.ratio:g} x {self._best:.4g}, or not finite, "
            f"in {self._bad} validations in a row"
        )
        if self.reverts == self.max_reverts:
            raise TrainingError(
                f"{trouble}, after {self.reverts} reverts; lower optim.schedule.peak, "
                "or raise callbacks.revert.max_reverts"
            )
        state = self._load_state()
        self.reverts += 1
        self._repeats += 1
        self._bad = 0
        optimizer = trainer.optimizers[0]
        rates = [group["lr"] for group in optimizer.param_groups]
        pl_module.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        factor = self.decay**self._repeats
        for config, values in zip(trainer.lr_scheduler_configs, state["schedulers"], strict=True):
            scheduler = config.scheduler
            if isinstance(scheduler, LambdaLR):
                scheduler.base_lrs = [rate * self.decay for rate in scheduler.base_lrs]
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate
                factor = self.decay
            else:
                scheduler.load_state_dict(values)
            if isinstance(scheduler, ReduceLROnPlateau):
                scheduler.cooldown_counter = scheduler.cooldown
        for group in optimizer.param_groups:
            group["lr"] *= factor
        for callback, values in zip(_smoothings(trainer), state["smoothing"], strict=True):
            callback.load_state_dict(values)
        if trainer.is_global_zero:
            print(
                f"epoch {trainer.current_epoch}: {trouble}; back to the start of epoch {state['epoch']}, "
                f"learning rate {rates[0]:.3g} -> {optimizer.param_groups[0]['lr']:.3g}",
                flush=True,
            )


def _smoothings(trainer: Trainer) -> list[SmoothedLoss]:
    return [callback for callback in trainer.callbacks if isinstance(callback, SmoothedLoss)]  # type: ignore[attr-defined]
