"""Tables and figures of a test, written into the run directory."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from ase.symbols import Symbols
from lightning import Callback

from tracegrad.atomic import replacing
from tracegrad.basis import OrbitalBasis
from tracegrad.blocks import assemble_matrix
from tracegrad.metrics.functional import hamiltonian_errors
from tracegrad.model import Prediction
from tracegrad.module import HamiltonianModule
from tracegrad.plots.block_mae import block_mae_figure, read_block_mae
from tracegrad.plots.elements import elements_figure, matrix_elements
from tracegrad.plots.hamiltonian import hamiltonian_figure
from tracegrad.plots.style import save
from tracegrad.reduction import Masks
from tracegrad.units import MEV_PER_HARTREE

COLUMNS = ("row", "formula", "atoms", "h_mae", "h_mae_diag", "h_mae_nondiag")
Matrices = tuple[np.ndarray, np.ndarray, np.ndarray]  # numbers, true H, predicted H


class TestReport(Callback):
    """Collects per-molecule errors during a test and writes tables and figures at its end.

    Files: ``test_molecules.csv`` (meV, every molecule of all ranks), ``block_mae.csv`` (meV) and
    ``figures/{elements,hamiltonian,block_mae}.png``.

    Args:
        directory: run directory.
        figure_molecules: molecules of the first batches whose matrix elements are drawn; 0: no figures.
    """

    __test__ = False  # not a test case, in spite of its name

    def __init__(self, directory: str | Path, figure_molecules: int = 32):
        self.directory = Path(directory)
        self.figure_molecules = figure_molecules
        self._rows: list[tuple[Any, ...]] = []
        self._matrices: list[Matrices] = []

    def on_test_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._rows, self._matrices = [], []
        self._masks = Masks(_module(pl_module).model.basis)

    def on_test_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        assert isinstance(outputs, Prediction)
        basis = _module(pl_module).model.basis
        errors = hamiltonian_errors(outputs.on_site, outputs.pairs, batch, self._masks, basis)
        table = torch.stack([errors.all, errors.diag, errors.nondiag], dim=1) * MEV_PER_HARTREE
        molecules = torch.split(batch.numbers.cpu(), torch.diff(batch.ptr.cpu()).tolist())
        for row, numbers, values in zip(batch.sample_id.tolist(), molecules, table.tolist(), strict=True):
            self._rows.append((row, formula(numbers.numpy()), len(numbers), *values))
        room = self.figure_molecules - len(self._matrices)
        if room > 0:
            self._matrices += _dense(outputs, batch, basis, room)

    def on_test_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        rows = self._gather(trainer)
        if not trainer.is_global_zero:
            return
        module = _module(pl_module)
        _write_csv(self.directory / "test_molecules.csv", COLUMNS, sorted(rows))
        blocks = module.test_metric.compute()["h_mae_block"].cpu().numpy() * MEV_PER_HARTREE
        names = shell_names(module.model.basis)
        table = [(name, *values) for name, values in zip(names, blocks.tolist(), strict=True)]
        _write_csv(self.directory / "block_mae.csv", ("shell", *names), table)
        if self._matrices:
            self._draw(module.model.basis)

    def _draw(self, basis: OrbitalBasis) -> None:
        figures = self.directory / "figures"
        save(elements_figure(matrix_elements(self._matrices, basis)), figures / "elements.png")
        # The molecule of median error speaks for the others.
        errors = [np.abs(true - predicted).mean() for _, true, predicted in self._matrices]
        median = self._matrices[int(np.argsort(errors)[len(errors) // 2])]
        save(hamiltonian_figure(*median, basis), figures / "hamiltonian.png")
        table = read_block_mae(self.directory / "block_mae.csv")
        save(block_mae_figure({"test": table}), figures / "block_mae.png")

    def _gather(self, trainer: lightning.Trainer) -> list[tuple[Any, ...]]:
        if trainer.world_size == 1:
            return self._rows
        parts: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(parts, self._rows)
        return [row for part in parts for row in part]


def formula(numbers: np.ndarray) -> str:
    """Hill formula of atomic numbers."""
    return Symbols(numbers).get_chemical_formula()


def shell_names(basis: OrbitalBasis) -> list[str]:
    """Names of the union shells, counted per degree: 1s, 2s, 3s, 1p, 2p, 1d."""
    counts: dict[int, int] = {}
    names = []
    for degree in basis.union:
        counts[degree] = counts.get(degree, 0) + 1
        names.append(f"{counts[degree]}{'spdfghi'[degree]}")
    return names


def _module(pl_module: lightning.LightningModule) -> HamiltonianModule:
    assert isinstance(pl_module, HamiltonianModule)
    return pl_module


def _dense(prediction: Prediction, batch: Any, basis: OrbitalBasis, most: int) -> list[Matrices]:
    atoms = torch.diff(batch.ptr.cpu())
    edges = (atoms * (atoms - 1)).tolist()
    parts = zip(
        batch.numbers.cpu().split(atoms.tolist()),
        *(tensor.cpu().split(atoms.tolist()) for tensor in (batch.h_self, prediction.on_site)),
        *(tensor.cpu().split(edges) for tensor in (batch.h_edge, prediction.pairs)),
        strict=True,
    )
    found = []
    for (numbers, true_self, self_, true_pairs, pairs), _ in zip(parts, range(most), strict=False):
        z = numbers.numpy()
        true, predicted = (
            assemble_matrix(on_site.double(), between.double(), z, basis).numpy()
            for on_site, between in ((true_self, true_pairs), (self_, pairs))
        )
        found.append((z, true, predicted))
    return found


def _write_csv(path: Path, head: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    with replacing(path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(rows)
