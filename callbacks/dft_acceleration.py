"""DFT acceleration at the end of a test: SCF started from predicted Hamiltonians and from standard guesses."""

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from callbacks.inference_time import device_clock, mean_seconds
from callbacks.predictions import PredictedBatch, PredictionCallback
from callbacks.trainer_parts import first_molecules, hamiltonian_module, stop_bar
from tracegrad.data.cache.lookup import AUTO
from tracegrad.data.molecules.database import Molecule
from tracegrad.errors import ConfigError, TraceGradError
from tracegrad.metrics.orbitals import dense_predictions
from tracegrad.model.ensemble import HamiltonianEnsemble, mean_and_spread
from tracegrad.model.network import HamiltonianModel
from tracegrad.physics.molecules.acceleration import GUESSES, ScfSettings, check_gpu, check_guesses
from tracegrad.physics.molecules.acceleration_jobs import (
    RELEASED_COUNT,
    PredictedMolecule,
    accelerations,
    chosen_rows,
)
from tracegrad.physics.molecules.acceleration_results import COLUMNS, Acceleration, label_warning, summary
from tracegrad.physics.molecules.acceleration_store import ScfStore, baseline_folders
from tracegrad.physics.molecules.dft import XC_CODES
from tracegrad.plots.scf import scf_figure
from tracegrad.plots.style import save
from tracegrad.plots.trust import trust_figure
from tracegrad.system.cores import available_cores
from tracegrad.system.progress import ProgressDisplay
from tracegrad.system.text_files import write_table

# How long a rank that has finished its molecules waits for the other ranks.
PATIENCE = timedelta(days=1)

Accelerations = tuple[list[Acceleration], list[str]]  # results, and messages of molecules that failed


class DFTAcceleration(PredictionCallback):
    """Measures by how much predictions shorten SCF calculations of some molecules of a test; only for molecules.

    Logs ``test/achieved_ratio_GUESS`` and ``test/error_level_ratio_GUESS`` (means, with ``_std``),
    ``test/scf_seconds_saved_GUESS`` (of a core), ``test/scf_wall_seconds_saved_GUESS``,
    ``test/scf_level_not_reached_GUESS``, ``test/energy_mae``, ``test/scf_energy_error_1`` and ``_2`` (meV),
    ``test/force_mae`` and ``test/force_mae_1`` (meV / angstrom; after no step and one), ``test/scf_residual``,
    ``test/commutator_norm`` (meV, with ``_correlation``: the rank correlation with the MAE of H),
    ``test/scf_same_state``, ``test/scf_not_converged`` and ``test/scf_molecules``, as
    `tracegrad.physics.molecules.acceleration_results` defines them. Files: ``acceleration.csv`` and
    ``figures/{scf,trust}.png``. With further networks ``test/ensemble_spread`` (meV) and its correlations, too. SCF
    runs from predictions are stored in ``scf/``; a test that was stopped does not repeat them.

    Args:
        directory: run directory.
        molecules: number of molecules, drawn like those of the benchmark
            (`tracegrad.physics.molecules.acceleration_jobs`); 0: none.
        guesses: PySCF's names of the initial guesses to compare with: minao, 1e.
        functional: b3lyp5, b3lyp, pbe or wb97x-d; None: that of the database.
        jobs: number of processes of one thread each; None: one for each core (with gpu: one).
        cache: folder of SCF runs from the guesses, which all networks share; "auto": beside the database or in
            ``~/.cache/tracegrad``; None: in ``scf/`` as well.
        max_cycle: cycles after which an SCF counts as not converged.
        gpu: whether gpu4pyscf computes.
        forces: whether energies and forces of the predicted densities are compared with those of converged DFT; it
            takes about as long as an SCF (not on a GPU).
        members: further networks; the prediction is the mean over all, and the spread is another measure of trust.
    """

    def __init__(
        self,
        directory: str | Path,
        molecules: int = RELEASED_COUNT,
        guesses: Sequence[str] = GUESSES,
        functional: str | None = None,
        jobs: int | None = None,
        cache: str | None = AUTO,
        max_cycle: int = 50,
        gpu: bool = False,
        forces: bool = True,
        members: Sequence[HamiltonianModel] = (),
    ):
        if type(molecules) is not int or molecules < 0:
            raise ConfigError(f"molecules is {molecules!r}; give a whole number of at least 0")
        if jobs is not None and (type(jobs) is not int or jobs < 1):
            raise ConfigError(
                f"jobs is {jobs!r}; give a whole number of at least 1, or null for one for each core"
            )
        self.directory = Path(directory)
        self.molecules, self.guesses = molecules, tuple(str(guess) for guess in guesses)
        self.functional, self.jobs, self.cache = functional, jobs, cache
        self.max_cycle, self.gpu, self.forces = max_cycle, gpu, forces
        self.members = tuple(members)
        self.results: list[Acceleration] = []
        self.summary: dict[str, float] = {}
        if molecules:
            check_guesses(self.guesses)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check at the start of a training what would otherwise fail at its end."""
        if self._applies(pl_module):
            self._settings(pl_module)
            if self.gpu:
                check_gpu()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._chosen: set[int] = set()
        self._collected: list[PredictedMolecule] = []
        if not self._applies(pl_module):
            return
        dataset = first_molecules(
            trainer.test_dataloaders, "DFT acceleration needs", "callbacks.acceleration.molecules=0"
        )
        self._database = dataset.database
        self._chosen = set(chosen_rows(dataset.database, dataset.rows, self.molecules).tolist())

    def on_test_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Time the prediction of H, without the traces, which a test may predict as well."""
        if not dataloader_idx and self._chosen & set(batch.sample_id.tolist()):
            predict = partial(hamiltonian_module(pl_module).model, batch, traces=False)
            with trainer.precision_plugin.forward_context():
                self._seconds = mean_seconds(predict, 1, device_clock(pl_module.device, time.perf_counter))

    def on_predicted(self, batch: PredictedBatch) -> None:
        if not self._chosen or batch.loader:
            return
        graph, basis = batch.graph, batch.module.model.basis
        for k, (row, name, composition, _) in enumerate(batch.samples()):
            if row in self._chosen:
                molecule = self._database[row]  # in float64, whereas the batch may be in float32
                own = dense_predictions(batch.prediction, graph, basis, [k])[0].cpu().numpy()
                predicted, spread, seconds = self._mean(molecule, own)
                self._collected.append(
                    PredictedMolecule(
                        row,
                        name,
                        composition,
                        molecule.numbers,
                        molecule.positions,
                        molecule.hamiltonian,
                        predicted,
                        self._seconds / graph.num_graphs + seconds,
                        spread,
                    )
                )

    def _mean(
        self, molecule: Molecule, own: Float[np.ndarray, "n n"]
    ) -> tuple[Float[np.ndarray, "n n"], float | None, float]:
        """Mean of this network's H and those of the others, their spread, and the time (s) that the others took."""
        if not self.members:
            return own, None, 0.0
        started = time.perf_counter()
        others = HamiltonianEnsemble(self.members).predictions(molecule.numbers, molecule.positions)
        mean, spread = mean_and_spread([own.astype(np.float64), *others])
        return mean, float(spread.mean()), time.perf_counter() - started

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._chosen:
            return
        stop_bar(trainer)
        settings = self._settings(pl_module)
        self.results, failures = _of_all_ranks(trainer, lambda: self._run_scf(trainer, settings))
        self.summary = summary(self.results, self.guesses)
        for name, value in self.summary.items():
            pl_module.log(f"test/{name}", torch.tensor(value, dtype=torch.float64), sync_dist=False)
        if trainer.is_global_zero:
            for failure in failures:
                _warn(f"left out {failure}")
            warning = label_warning(self.results, settings.functional)
            if warning:
                _warn(warning)
            self._write()

    def _run_scf(self, trainer: Trainer, settings: ScfSettings) -> Accelerations:
        """Run the SCF calculations of the molecules of this rank."""
        predicted = ScfStore([self.directory / "scf"])
        folders = baseline_folders(self._database.path, self.cache)
        shown = trainer.is_global_zero
        # One large molecule takes longer than the half minute over which a bar estimates its speed by default.
        with ProgressDisplay("SCF runs", seconds=600.0, shown=shown) as progress:
            return accelerations(
                self._collected,
                self.guesses,
                settings,
                ScfStore(folders) if folders else predicted,
                predicted,
                processes=self._processes(trainer),
                report=_warn,
                on_progress=progress.bar("DFT acceleration"),
            )

    def _write(self) -> None:
        table = [line for result in self.results for line in result.table()]
        write_table(self.directory / "acceleration.csv", COLUMNS, table)
        if self.results:
            save(scf_figure(self.results), self.directory / "figures" / "scf.png")
        if any(result.measure(0) is not None for result in self.results):
            save(trust_figure(self.results), self.directory / "figures" / "trust.png")

    def _applies(self, pl_module: LightningModule) -> bool:
        return self.molecules > 0 and not hamiltonian_module(pl_module).model.basis.periodic

    def _settings(self, pl_module: LightningModule) -> ScfSettings:
        recorded = hamiltonian_module(pl_module).record.get("data", {}).get("functional", "unknown")
        functional = self.functional or recorded
        if functional not in XC_CODES:
            known = ", ".join(XC_CODES)
            raise ConfigError(
                f"the functional of the database is {functional!r}, and DFT acceleration needs one of {known}: set "
                "data.functional (callbacks.acceleration.functional, functional=... of experiments.accelerate) to "
                "the one that its Hamiltonians were computed with, or callbacks.acceleration.molecules=0"
            )
        return ScfSettings(functional, self.max_cycle, self.gpu, self.forces)

    def _processes(self, trainer: Trainer) -> int:
        if self.jobs is not None:
            return self.jobs
        return 1 if self.gpu else max(1, available_cores() // trainer.num_devices)


@rank_zero_only
def _warn(line: str) -> None:
    print(f"warning: DFT acceleration: {line}", flush=True)


def _of_all_ranks(trainer: Trainer, work: Callable[[], Accelerations]) -> Accelerations:
    """Call ``work`` on every rank and return the results of all, sorted by row, and all messages of failures.

    Every rank returns the same.

    Raises:
        TraceGradError: ``work`` has raised an error on another rank. A rank on which it has raises that error itself.
    """
    if trainer.world_size == 1:
        results, failures = work()
        return sorted(results, key=lambda result: result.row), failures
    # NCCL would time out long before the slowest rank has finished. The group connects before the work, so that the
    # other ranks notice at once if a process ends.
    group = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)
    failure: Exception | None = None
    part: tuple[list[Acceleration], list[str], str | None] = ([], [], None)
    try:
        part = (*work(), None)
    except Exception as error:  # sent to the other ranks, which wait for this one
        failure, part = error, ([], [], f"{type(error).__name__}: {error}")
    parts: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(parts, part, group=group)
    torch.distributed.destroy_process_group(group)
    if failure is not None:
        raise failure
    for rank, (_, _, reason) in enumerate(parts):
        if reason is not None:
            raise TraceGradError(f"DFT acceleration failed on rank {rank}: {reason}")
    results = [result for part in parts for result in part[0]]
    return sorted(results, key=lambda result: result.row), [line for part in parts for line in part[1]]
