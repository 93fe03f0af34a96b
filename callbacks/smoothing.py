"""An exponentially smoothed validation loss, for schedules that wait for a plateau."""

from math import inf, isfinite
from typing import Any

from lightning import Callback, LightningModule, Trainer

from tracegrad.errors import ConfigError


class SmoothedLoss(Callback):
    """Logs s_n = alpha * loss_n + (1 - alpha) * s_(n-1) after every epoch with a validation; s_1 = loss_1.

    A loss that is not finite leaves s unchanged (infinite if there was none before), so that a schedule which waits
    for a plateau counts a validation without progress. A schedule that watches s makes one step per validation. This
    holds for a resumed run as well, although the checkpoint of a validation is saved before that step.

    Args:
        alpha: weight of the newest loss.
        monitor: log name of the loss to smooth.
        name: log name of the smoothed loss s.
    """

    def __init__(self, alpha: float = 0.1, monitor: str = "val/loss_h", name: str = "val/loss_smooth"):
        if not 0 < alpha <= 1:
            raise ConfigError(f"callbacks.smoothing.alpha is {alpha}; choose a weight above 0, at most 1")
        self.alpha, self.monitor, self.name = alpha, monitor, name
        self._smoothed: float | None = None
        self._newest: float | None = None  # loss that is not yet part of the smoothed loss

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for config in trainer.lr_scheduler_configs:
            if config.monitor == self.name and trainer.check_val_every_n_epoch is not None:
                config.frequency = trainer.check_val_every_n_epoch

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._newest = logged(trainer, self.monitor, "callbacks.smoothing.monitor")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._newest is None:
            return
        if isfinite(self._newest):
            before = self._newest if self._smoothed is None else self._smoothed
            self._smoothed = self.alpha * self._newest + (1 - self.alpha) * before
        self._newest = None
        pl_module.log(self.name, inf if self._smoothed is None else self._smoothed)
        if trainer.fit_loop.restarting:  # Lightning omits the step of the schedule in a resumed epoch
            for config in trainer.lr_scheduler_configs:
                if config.monitor == self.name:
                    config.scheduler.step(trainer.callback_metrics[self.name])  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, Any]:
        return {"smoothed": self._smoothed, "newest": self._newest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._smoothed, self._newest = state_dict["smoothed"], state_dict["newest"]


def logged(trainer: Trainer, metric: str, setting: str) -> float:
    """The last logged value of a metric.

    Args:
        trainer: whose metrics are meant.
        metric: log name.
        setting: key of the setting that names the metric, for the message.

    Raises:
        ConfigError: no metric of this name is logged.
    """
    if metric not in trainer.callback_metrics:
        known = ", ".join(sorted(trainer.callback_metrics))
        raise ConfigError(f"{setting} is {metric}, which is not logged; choose one of {known}")
    return trainer.callback_metrics[metric].item()
