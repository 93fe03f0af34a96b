"""Predictions that are not finite at chosen moments, through weights that are not finite."""

from collections.abc import Sequence
from math import nan

import lightning
import torch
from lightning import Callback


class Poison(Callback):
    """Fills a weight of the network for whole validations, tests or training steps.

    Args:
        epochs: whose validation is poisoned.
        steps: of the training that are poisoned.
        test: poison the test.
        sanity: poison the validation before the training.
        rank: the only one that is poisoned; None: all.
        value: nan or inf.
    """

    def __init__(
        self,
        epochs: Sequence[int] = (),
        steps: Sequence[int] = (),
        test: bool = False,
        sanity: bool = False,
        rank: int | None = None,
        value: float = nan,
    ):
        self.epochs, self.steps, self.test, self.sanity = tuple(epochs), tuple(steps), test, sanity
        self.rank, self.value = rank, value
        self._kept: torch.Tensor | None = None

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self.sanity if trainer.sanity_checking else trainer.current_epoch in self.epochs:
            self._fill(trainer, pl_module)

    def on_validation_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        self._restore(pl_module)

    def on_test_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self.test:
            self._fill(trainer, pl_module)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx: int) -> None:
        if trainer.global_step in self.steps:
            self._fill(trainer, pl_module)

    def _fill(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self.rank in (None, trainer.global_rank):
            weight = _weight(pl_module)
            self._kept = weight.clone()
            weight.fill_(self.value)

    def _restore(self, pl_module: lightning.LightningModule) -> None:
        if self._kept is not None:
            _weight(pl_module).copy_(self._kept)
        self._kept = None


def _weight(pl_module: lightning.LightningModule) -> torch.Tensor:
    return next(iter(pl_module.parameters())).data
