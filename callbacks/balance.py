"""How evenly the ranks of a distributed training are loaded."""

from lightning import Callback, LightningModule, Trainer

from tracegrad.data.loading.loader import ResumableLoader


class RankBalance(Callback):
    """Logs ``train/rank_imbalance`` after each epoch of a training on several ranks.

    It is the largest share of a batch that a rank gets, divided by the mean share, for the least even batch of the
    epoch. Shares are counted in pairs of atoms (see `TrainingBatches`); 1 is perfect.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        imbalance = _imbalance(trainer)
        if imbalance is not None and trainer.is_global_zero:
            print(
                f"{trainer.world_size} ranks: the largest share of a batch has {imbalance:.3f} times the mean work",
                flush=True,
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        imbalance = _imbalance(trainer)
        if imbalance is not None:
            pl_module.log("train/rank_imbalance", imbalance)


def _imbalance(trainer: Trainer) -> float | None:
    loader = trainer.train_dataloader
    if trainer.world_size == 1 or not isinstance(loader, ResumableLoader):
        return None
    return loader.batches.imbalance()
