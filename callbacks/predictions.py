"""Callbacks that work with the predictions of tests."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from callbacks.trainer_parts import hamiltonian_module
from tracegrad.elements import formula
from tracegrad.model.network import HamiltonianPrediction
from tracegrad.training.module import HamiltonianModule


@dataclass(frozen=True)
class PredictedBatch:
    """A batch with labels and its prediction; ``loader`` is the number of the subset of the data."""

    trainer: Trainer
    module: HamiltonianModule
    prediction: HamiltonianPrediction
    graph: Any
    loader: int

    def samples(self) -> list[tuple[int, str, str, int]]:
        """Row of the database, name, chemical formula and number of atoms of each sample."""
        numbers = torch.split(self.graph.numbers.cpu(), torch.diff(self.graph.ptr.cpu()).tolist())
        rows = self.graph.sample_id.tolist()
        return [
            (row, self.module.sample_name(row), formula(atoms.numpy()), len(atoms))
            for row, atoms in zip(rows, numbers, strict=True)
        ]


class PredictionCallback(Callback, ABC):
    """A callback whose method ``on_predicted`` gets each batch of a test with its prediction."""

    @abstractmethod
    def on_predicted(self, batch: PredictedBatch) -> None:
        """Called after each batch of a test."""

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        assert isinstance(outputs, HamiltonianPrediction)
        module = hamiltonian_module(pl_module)
        self.on_predicted(PredictedBatch(trainer, module, outputs, batch, dataloader_idx))
