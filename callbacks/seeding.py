"""Random numbers of a training that depend only on seed, step and rank."""

import random
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer


class SeedSteps(Callback):
    """Seeds torch, numpy and Python anew before every step, so that checkpoints need not store their states.

    A resumed run draws the same random numbers as it would have drawn without the interruption.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int):
        self.seed = seed

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # batch_idx distinguishes the accumulated batches of one step.
        step = (trainer.global_step, batch_idx, trainer.global_rank)
        state = int(np.random.SeedSequence([self.seed, *step]).generate_state(1, np.uint64)[0])
        torch.manual_seed(state)
        random.seed(state)
        np.random.seed(state % 2**32)  # noqa: NPY002  libraries use the global generator
