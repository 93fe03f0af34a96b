"""A validation, and with it a checkpoint, after the last step of a training."""

from typing import Any

from lightning import Callback, LightningModule, Trainer


class ValidateLastStep(Callback):
    """Validates after the last step even if it lies inside an epoch, so that the checkpoints contain every step."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        last_epoch = trainer.max_epochs is not None and trainer.current_epoch + 1 == trainer.max_epochs
        last_batch = last_epoch and batch_idx + 1 == trainer.num_training_batches
        if last_batch or 0 < trainer.max_steps <= trainer.global_step:
            trainer.check_val_every_n_epoch = 1
            trainer.should_stop = True  # the loop validates before it stops
