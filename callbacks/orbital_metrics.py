"""Errors of orbital energies and wavefunctions in validation and test, with tables and figures."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from callbacks.gather import gathered
from callbacks.predictions import PredictedBatch, PredictionCallback
from callbacks.trainer_parts import first_molecules, hamiltonian_module
from tracegrad.data.cache.lookup import AUTO
from tracegrad.data.loading.datamodule import MoleculeDataset
from tracegrad.data.loading.hamiltonian_module import evenly_spaced
from tracegrad.errors import ConfigError
from tracegrad.hamiltonian.graph import collate
from tracegrad.metrics import columns, orbitals
from tracegrad.metrics.functional.orbitals import NAMES
from tracegrad.metrics.orbitals import OrbitalErrors, dense_predictions, orbital_errors
from tracegrad.model.network import HamiltonianPrediction
from tracegrad.physics.molecules.cached_molecules import CachedMolecules, prepare_molecules
from tracegrad.physics.molecules.levels import MolecularLevels, molecular_levels
from tracegrad.physics.molecules.molecule_cache import molecule_cache_paths
from tracegrad.physics.molecules.row_matrices import unpacked
from tracegrad.physics.molecules.solved import SOLVED, SolvedMolecule
from tracegrad.plots.energies import energies_figure
from tracegrad.plots.levels import levels_figure
from tracegrad.plots.style import save
from tracegrad.system.progress import ProgressDisplay
from tracegrad.system.text_files import write_table
from tracegrad.training.module import HamiltonianModule
from tracegrad.units import MEV_PER_HARTREE

COLUMNS = ("row", "name", "formula", "atoms", *NAMES)
_UNITS = {column.key: column.unit for column in columns.ORBITALS}
_FACTORS = torch.tensor(
    [MEV_PER_HARTREE if _UNITS[name] == "meV" else 1.0 for name in NAMES], dtype=torch.float64
)


class OrbitalMetrics(PredictionCallback):
    """Compares the orbitals of predicted Hamiltonians with those of the database; only for molecules.

    Logs ``test/`` and ``val/`` ``eps_mae``, ``eps_mae_shifted``, ``h_mae_shifted``, ``homo_error``, ``lumo_error``,
    ``gap_error`` (meV), ``psi_cosine``, ``psi_overlap`` and ``psi_overlap_levels``, as
    `tracegrad.metrics.functional.orbitals` defines them. In a test the molecules of all ranks count, in a validation
    a sample of them. Files of a test: ``orbitals.csv`` (every molecule) and ``figures/{eps,levels}.png``. For
    crystals a line says that these metrics are left out.

    The references, orbitals of the labels, are solved once for each database and stored in a cache
    (`tracegrad.physics.molecules.solved`).

    Args:
        directory: run directory.
        every_n_validations: metrics are computed in the first validation and in every n-th one after it.
        val_molecules: number of molecules, evenly spread over the validation part; 0: none.
        figure_molecules: number of molecules, from the first batches, of which the one with the median error is drawn
            in the figure of levels; 0: no figures.
        cache: "auto": beside the database or in ``~/.cache/tracegrad``; a path, which should end in
            ``.tracegrad-orbitals``; or None: solve the references anew in each test.
        processes: number of processes that solve the references; None: one for each core.
    """

    def __init__(
        self,
        directory: str | Path,
        every_n_validations: int = 1,
        val_molecules: int = 64,
        figure_molecules: int = 64,
        cache: str | None = AUTO,
        processes: int | None = None,
    ):
        if every_n_validations < 1:
            raise ConfigError(f"every_n_validations is {every_n_validations}; at least 1 is needed")
        for name, value in (("val_molecules", val_molecules), ("figure_molecules", figure_molecules)):
            if value < 0:
                raise ConfigError(f"{name} is {value}; give a number of molecules of at least 0")
        self.directory = Path(directory)
        self.every_n_validations, self.val_molecules = every_n_validations, val_molecules
        self.figure_molecules, self.cache, self.processes = figure_molecules, cache, processes
        self._validations = 0
        # Whether this validation computes the metrics: the same on all ranks, whereas references may be open on some.
        self._due = False
        self._said_left_out = False
        self._references: CachedMolecules[SolvedMolecule] | None = None
        self._metric = orbitals.MeanOrbitalErrors()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if hamiltonian_module(pl_module).model.basis.periodic and not self._said_left_out:
            self._said_left_out = True
            rank_zero_info(
                "orbital metrics are left out: they are defined for molecules, and these are crystals"
            )

    def state_dict(self) -> dict[str, Any]:
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._validations = state_dict["validations"]

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._due = False
        if trainer.sanity_checking or not self.val_molecules:
            return
        self._due = self._validations % self.every_n_validations == 0 and self._applies(pl_module)
        self._validations += 1

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Validate with the first batch: by then other callbacks have loaded the weights to validate."""
        if self._due and not batch_idx and not dataloader_idx:
            self._validate(trainer, pl_module, batch.num_graphs)

    def _validate(self, trainer: Trainer, pl_module: LightningModule, size: int) -> None:
        """Predict and compare the molecules of this rank, in batches of ``size``."""
        module = hamiltonian_module(pl_module)
        dataset = self._molecules(trainer.val_dataloaders)
        count = min(max(self.val_molecules, trainer.world_size), len(dataset))
        chosen = evenly_spaced(len(dataset), count)
        self._open(trainer, pl_module, dataset, dataset.rows[chosen])
        share = chosen[trainer.global_rank :: trainer.world_size].tolist()
        for start in range(0, len(share), size):
            graph = collate([dataset[i] for i in share[start : start + size]]).to(pl_module.device)
            with trainer.precision_plugin.forward_context():
                prediction = module.model(graph, traces=False)
            self._errors(module, prediction, graph)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._due:
            return
        if self._references is None:  # this rank had no batch, but the others wait for its sums
            self._validate(trainer, pl_module, 1)
        self._log(pl_module, "val")
        self._close()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._rows: list[tuple[Any, ...]] = []
        self._energies: list[tuple[np.ndarray, np.ndarray]] = []
        self._drawn: list[tuple[int, np.ndarray]] = []
        if self._applies(pl_module):
            dataset = self._molecules(trainer.test_dataloaders)
            self._open(trainer, pl_module, dataset, dataset.rows)

    def on_predicted(self, batch: PredictedBatch) -> None:
        if self._references is None or batch.loader:
            return
        errors = self._errors(batch.module, batch.prediction, batch.graph)
        table = (errors.values.cpu() * _FACTORS).tolist()
        self._rows += [
            (*of_sample, *values) for of_sample, values in zip(batch.samples(), table, strict=True)
        ]
        if batch.trainer.is_global_zero and self.figure_molecules:
            self._energies += zip(errors.true, errors.predicted, strict=True)
            molecules = batch.graph.num_graphs
            for k in range(min(molecules, self.figure_molecules - len(self._drawn))):
                h_pred = dense_predictions(batch.prediction, batch.graph, batch.module.model.basis, [k])[0]
                self._drawn.append((len(self._energies) - molecules + k, h_pred.cpu().numpy()))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._references is None:
            return
        self._log(pl_module, "test")
        rows = gathered(trainer, self._rows)
        if trainer.is_global_zero:
            write_table(self.directory / "orbitals.csv", COLUMNS, sorted(rows))
            self._draw()
        self._close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._close()

    def _molecules(self, loaders: Any) -> MoleculeDataset:
        return first_molecules(loaders, "orbital metrics need", "callbacks.orbitals=null")

    def _applies(self, pl_module: LightningModule) -> bool:
        return not hamiltonian_module(pl_module).model.basis.periodic

    def _open(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        dataset: MoleculeDataset,
        rows: Int64[np.ndarray, " rows"],
    ) -> None:
        """Load the references of these rows; one process solves those that the cache lacks, the others wait."""
        self._close()
        paths = molecule_cache_paths(dataset.database.path, SOLVED, self.cache)
        shown = trainer.is_global_zero
        with ProgressDisplay("reference molecules", shown=shown) as progress:
            self._references = prepare_molecules(
                dataset.database,
                SOLVED,
                rows.tolist(),
                paths,
                processes=self.processes,
                report=progress.report if shown else lambda line: None,
                on_progress=progress.bar("solving"),
            )
        self._metric.reset()
        self._metric.to(pl_module.device)

    def _close(self) -> None:
        if self._references is not None:
            self._references.close()
        self._references = None

    def _errors(
        self, module: HamiltonianModule, prediction: HamiltonianPrediction, graph: Any
    ) -> OrbitalErrors:
        assert self._references is not None
        errors = orbital_errors(prediction, graph, module.model.basis, self._references)
        self._metric.update(errors)
        return errors

    def _log(self, pl_module: LightningModule, stage: str) -> None:
        """Log the means over all molecules of all ranks; torchmetrics sums over the ranks."""
        factors = dict(zip(NAMES, _FACTORS.tolist(), strict=True))
        for name, value in self._metric.compute().items():
            pl_module.log(f"{stage}/{name}", value * factors[name], sync_dist=False)

    def _draw(self) -> None:
        assert self._references is not None
        if not self._energies:
            return
        figures = self.directory / "figures"
        true, predicted = (np.concatenate([pair[i][:-1] for pair in self._energies]) for i in (0, 1))
        save(energies_figure(true, predicted), figures / "eps.png")
        column = NAMES.index("eps_mae") + len(COLUMNS) - len(NAMES)
        drawn = [(self._rows[i][column], i, h) for i, h in self._drawn if np.isfinite(self._rows[i][column])]
        if drawn:
            error, i, h_pred = sorted(drawn, key=lambda item: item[:2])[len(drawn) // 2]
            save(self._levels(i, h_pred, error), figures / "levels.png")

    def _levels(self, i: int, h_pred: Float[np.ndarray, "n n"], error: float) -> Any:
        """Figure of the true and predicted levels of molecule ``i`` of the table, which has this error (meV)."""
        assert self._references is not None
        row, name, composition = self._rows[i][:3]
        solved = self._references(row)
        ladders = {
            "true": MolecularLevels(solved.energies, solved.orbitals, solved.occupied),
            "predicted": molecular_levels(h_pred, unpacked(solved.overlap), 2 * solved.occupied),
        }
        return levels_figure(ladders, title=f"{composition}, row {name}: error {error:.1f} meV (occupied)")
