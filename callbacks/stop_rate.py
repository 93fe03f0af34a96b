"""End of a training whose learning rate has become too small to change anything."""

from typing import Any

from lightning import Callback, LightningModule, Trainer

from tracegrad.errors import ConfigError


class StopAtRate(Callback):
    """Ends the training after the first epoch that began with a learning rate of at most ``minimum``.

    That epoch still validates and saves its checkpoints. Low rates before the rate has first been above ``minimum``,
    as in a warm-up, do not count.
    """

    def __init__(self, minimum: float = 3e-5):
        if not minimum > 0:
            raise ConfigError(
                f"callbacks.stop_rate.minimum is {minimum}; a rate above 0 is needed "
                "(callbacks.stop_rate=null: train to the last step)"
            )
        self.minimum = minimum
        self._rate = 0.0  # at the start of the epoch
        self._risen = False
        self._over = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop |= self._over  # the run is resumed after its end

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._rate = max(group["lr"] for group in trainer.optimizers[0].param_groups)
        self._risen |= self._rate > self.minimum

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if not trainer.is_last_batch or not self._risen or self._rate > self.minimum:
            return
        self._over = True
        trainer.check_val_every_n_epoch = 1
        trainer.should_stop = True  # the loop validates before it stops
        if trainer.is_global_zero:
            print(
                f"epoch {trainer.current_epoch}: the learning rate {self._rate:.3g} is not above "
                f"callbacks.stop_rate.minimum={self.minimum:.3g}; the training ends",
                flush=True,
            )

    def state_dict(self) -> dict[str, Any]:
        return {"rate": self._rate, "risen": self._risen, "over": self._over}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._rate, self._risen = state_dict["rate"], state_dict["risen"]
        self._over = state_dict["over"]
