"""Tables and figures of a test in the run directory."""

from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer

from callbacks.gather import gathered
from callbacks.predictions import PredictedBatch, PredictionCallback
from callbacks.trainer_parts import hamiltonian_module
from tracegrad.hamiltonian.basis import LETTERS, OrbitalBasis
from tracegrad.hamiltonian.blocks import orbital_rows
from tracegrad.hamiltonian.reduction import Masks, is_on_site, site_edges
from tracegrad.metrics.columns import HAMILTONIAN
from tracegrad.metrics.functional import hamiltonian_errors
from tracegrad.model.network import HamiltonianPrediction
from tracegrad.plots.block_mae import block_mae_figure
from tracegrad.plots.elements import MatrixElements, elements_figure
from tracegrad.plots.hamiltonian import hamiltonian_figure
from tracegrad.plots.style import save
from tracegrad.reports.results import block_file, read_block_mae
from tracegrad.system.text_files import write_table
from tracegrad.units import MEV

COLUMNS = ("row", "name", "subset", "formula", "atoms", *(column.key for column in HAMILTONIAN))
# Matrix elements in the figure of elements; more would not change what it shows.
MOST_ELEMENTS = 5_000_000
# Largest number of atoms of a crystal whose dense H(R = 0) is drawn.
LARGEST_CELL = 40


@dataclass
class DrawnSample:
    """A molecule or crystal for the figures. In arrays of H index 0 is true and 1 predicted; unit: that of the basis.

    Attributes:
        numbers: atomic numbers.
        error: MAE over all elements of H.
        on_site: elements of the on-site blocks, [2, elements].
        off_site: elements of the off-site blocks, [2, elements].
        dense: H of a molecule or H(R = 0) of a crystal, [2, n, n], NaN where there are no blocks; None: not drawn.
        periodic: whether it is a crystal.
    """

    numbers: np.ndarray
    error: float
    on_site: np.ndarray
    off_site: np.ndarray
    dense: np.ndarray | None
    periodic: bool


class TestReport(PredictionCallback):
    """Collects per-sample errors during a test and writes tables and figures at its end.

    Files: ``test_samples.csv`` (meV, every sample of all ranks and subsets), ``block_mae.csv`` (meV) and
    ``figures/{elements,hamiltonian,block_mae}.png``; those of a named subset end in ``-NAME``.

    Args:
        directory: run directory.
        figure_samples: number of samples, from the first batches, whose matrix elements are drawn if they are finite;
            0: no figures.
    """

    __test__ = False  # not a test case, in spite of its name

    def __init__(self, directory: str | Path, figure_samples: int = 32):
        self.directory = Path(directory)
        self.figure_samples = figure_samples
        self._rows: list[tuple[Any, ...]] = []
        self._drawn_samples: dict[str, list[DrawnSample]] = {}

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module = hamiltonian_module(pl_module)
        self._rows, self._drawn_samples = [], {subset: [] for subset in module.test_subsets}
        self._masks = Masks(module.model.basis)

    def on_predicted(self, batch: PredictedBatch) -> None:
        basis, subset = batch.module.model.basis, batch.module.test_subsets[batch.loader]
        errors = hamiltonian_errors(batch.prediction.blocks, batch.graph, self._masks, basis)
        table = torch.stack([errors.all, errors.diag, errors.nondiag], dim=1) * MEV[basis.unit]
        for (row, name, *of_sample), values in zip(batch.samples(), table.tolist(), strict=True):
            self._rows.append((row, name, subset, *of_sample, *values))
        drawn = self._drawn_samples[subset]
        for k, error in enumerate(errors.all.tolist()):
            elements = sum(sample.on_site.shape[1] + sample.off_site.shape[1] for sample in drawn)
            if len(drawn) >= self.figure_samples or elements >= MOST_ELEMENTS:
                break
            if isfinite(error):  # the others are only in the tables
                drawn.append(drawn_sample(batch.prediction, batch.graph, basis, k, error))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rows = gathered(trainer, self._rows)
        if not trainer.is_global_zero:
            return
        module = hamiltonian_module(pl_module)
        basis = module.model.basis
        rows.sort(key=lambda row: (row[2], row[0]))
        write_table(self.directory / "test_samples.csv", COLUMNS, rows)
        names = shell_names(basis)
        for i, (subset, drawn) in enumerate(self._drawn_samples.items()):
            ending = f"-{subset}" if subset else ""
            blocks = module.test_metric(i).compute()["h_mae_block"].cpu().numpy() * MEV[basis.unit]
            table = [(name, *values) for name, values in zip(names, blocks.tolist(), strict=True)]
            write_table(self.directory / block_file(subset), ("shell", *names), table)
            if drawn:
                self._draw(drawn, basis, ending)

    def _draw(self, drawn: list[DrawnSample], basis: OrbitalBasis, ending: str) -> None:
        figures = self.directory / "figures"
        on_site = np.concatenate([sample.on_site for sample in drawn], axis=1)
        off_site = np.concatenate([sample.off_site for sample in drawn], axis=1)
        save(
            elements_figure(MatrixElements(on_site[0], on_site[1], off_site[0], off_site[1], basis.unit)),
            figures / f"elements{ending}.png",
        )
        dense = sorted((sample.error, i) for i, sample in enumerate(drawn) if sample.dense is not None)
        if dense:
            median = drawn[dense[len(dense) // 2][1]]
            assert median.dense is not None
            true, predicted = median.dense
            title = "$H(R = 0)$" if median.periodic else ""
            figure = hamiltonian_figure(median.numbers, true, predicted, basis, title)
            save(figure, figures / f"hamiltonian{ending}.png")
        table = read_block_mae(self.directory / block_file(ending[1:]))
        save(block_mae_figure({ending[1:] or "test": table}), figures / f"block_mae{ending}.png")


def shell_names(basis: OrbitalBasis) -> list[str]:
    """Names of the shells of the union layout.

    They are numbered within each degree: 1s, 2s, 3s, 1p, 2p, 1d. With spin all are there twice: 1s+ .. 1d+, 1s- ..
        1d-.
    """
    spatial = basis.union[: len(basis.union) // basis.spins]
    names = [f"{spatial[:i].count(degree) + 1}{LETTERS[degree]}" for i, degree in enumerate(spatial)]
    return [name + spin for spin in (("+", "-") if basis.spinful else ("",)) for name in names]


def drawn_sample(
    prediction: HamiltonianPrediction, batch: Any, basis: OrbitalBasis, k: int, error: float
) -> DrawnSample:
    """Collect labels and predictions of one sample for the figures.

    Args:
        prediction: of the whole batch.
        batch: with labels.
        basis: of the network.
        k: position of the sample in the batch.
        error: MAE of the sample over all elements, in the unit of the basis.
    """
    start, end = batch.ptr[k : k + 2].tolist()
    numbers = batch.numbers[start:end].cpu().numpy()
    periodic = "cells" in batch
    orbitals, total = orbital_rows(numbers, basis)
    dtype = torch.complex128 if basis.spinful else torch.float64
    drawable = not periodic or len(numbers) <= LARGEST_CELL
    # One more row and column than orbitals, at the end: they receive the padding of the blocks.
    side = total + 1 if drawable else 0
    dense = torch.full((2, side, side), torch.nan, dtype=dtype).numpy()
    on_site, off_site = [], []
    for site, predicted in prediction.blocks.items():
        edges = site_edges(batch, site)
        chosen = (batch.batch[edges[0]] == k).nonzero().flatten()
        dst, src = (edges[:, chosen] - start).cpu().numpy()
        blocks = np.stack([b[chosen].cpu().to(dtype).numpy() for b in (batch[f"h_{site}"], predicted)])
        mask = basis.mask[numbers[dst]][:, :, None] & basis.mask[numbers[src]][:, None, :]
        same = is_on_site(batch, site)[chosen].cpu().numpy()
        on_site.append(blocks[:, same][:, mask[same]])
        off_site.append(blocks[:, ~same][:, mask[~same]])
        if not drawable:
            continue
        home = (
            (batch.cells[chosen] == 0).all(1).cpu().numpy() if periodic else np.ones(len(chosen), dtype=bool)
        )
        rows, columns = orbitals[dst[home]][:, :, None], orbitals[src[home]][:, None, :]
        dense[:, rows, columns] = blocks[:, home]
    dense = dense[:, :total, :total]
    return DrawnSample(
        numbers,
        error,
        np.concatenate(on_site, axis=1),
        np.concatenate(off_site, axis=1),
        None if np.isnan(dense[0]).all() else dense,
        periodic,
    )
