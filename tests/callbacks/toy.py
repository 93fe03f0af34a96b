"""A training of a second with real weights, a real optimizer, and chosen validation losses."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from experiments.training.warning_filter import quiet
from tracegrad.training.schedule import Schedule

BATCHES = 3


class Toy(lightning.LightningModule):
    """A linear map; ``losses[i]`` is the validation loss of epoch ``i``."""

    def __init__(self, schedule: Schedule, losses: Sequence[float]):
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)
        self.schedule, self.losses = schedule, losses
        self.starts: dict[int, Any] = {}  # weights and optimizer at the start of each epoch
        self.rates: dict[int, float] = {}

    def training_step(self, batch, batch_idx):
        return self.layer(batch).square().sum()

    def validation_step(self, batch, batch_idx):
        pass

    def on_validation_epoch_end(self):
        self.log("val/loss_h", self.losses[self.current_epoch])

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.schedule.peak)
        return {"optimizer": optimizer, "lr_scheduler": self.schedule.scheduler(optimizer)}

    def on_train_epoch_start(self):
        optimizer = self.trainer.optimizers[0]
        self.starts[self.current_epoch] = deepcopy((self.state_dict(), optimizer.state_dict()["state"]))
        self.rates[self.current_epoch] = optimizer.param_groups[0]["lr"]


def train(
    directory: Path,
    schedule: Schedule,
    losses: Sequence[float],
    callbacks: list[Callback],
    epochs: int | None = None,
    resume: bool = False,
    **settings: Any,
) -> Toy:
    """Train for a number of epochs (all by default), or continue after the last validation."""
    torch.manual_seed(0)
    toy = Toy(schedule, losses)
    data = torch.randn(BATCHES * 4, 3, generator=torch.Generator().manual_seed(1))
    last = ModelCheckpoint(
        directory,
        "last",
        every_n_epochs=1,
        save_on_train_epoch_end=False,
        enable_version_counter=False,
    )
    with quiet():
        trainer = lightning.Trainer(
            **{
                "max_epochs": epochs or len(losses),
                "accelerator": "cpu",
                "logger": False,
                "num_sanity_val_steps": 0,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "default_root_dir": directory,
            }
            | settings,
            callbacks=[*callbacks, last],
        )
        loader = DataLoader(data, batch_size=4)
        trainer.fit(
            toy, loader, DataLoader(data[:1]), ckpt_path=str(directory / "last.ckpt") if resume else None
        )
    return toy


def same(left: Any, right: Any) -> bool:
    """Assert bitwise equality of nested containers of tensors and numbers."""
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right
