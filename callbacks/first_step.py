"""An action for the moment at which a training has proved to work."""

from collections.abc import Callable
from typing import Any

from lightning import Callback, LightningModule, Trainer


class AfterFirstStep(Callback):
    """Calls ``action`` once, on the first rank, after the first optimizer step of a process."""

    def __init__(self, action: Callable[[], None]):
        self._action: Callable[[], None] | None = action
        self._start = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step > self._start:
            self.act(trainer)

    def act(self, trainer: Trainer) -> None:
        """Call the action now unless it has been called before."""
        action, self._action = self._action, None
        if action is not None and trainer.is_global_zero:
            action()
