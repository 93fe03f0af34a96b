"""Which test molecules the acceleration of the SCF is measured for, and their SCF runs in parallel processes."""

import signal
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from tracegrad.data.molecules.database import MoleculeDatabase
from tracegrad.data.qh9.database import SPLIT_NAMES, QH9Database
from tracegrad.errors import GenerationError, TraceGradError
from tracegrad.physics.molecules.acceleration import (
    PREDICTION,
    ScfRun,
    ScfSettings,
    ScfTask,
    mean_absolute,
    solve,
)
from tracegrad.physics.molecules.acceleration_results import Acceleration
from tracegrad.physics.molecules.acceleration_store import ScfStore
from tracegrad.system.parallel import work_through
from tracegrad.system.signals import stop_signals
from tracegrad.system.workers import TaskFailure, WorkerDied, WorkerPool

RELEASED_COUNT = 50  # molecules of the QH9 benchmark
SEED = 43  # of the QH9 benchmark


def chosen_rows(
    database: MoleculeDatabase, rows: Int[np.ndarray, " rows"], count: int
) -> Int[np.ndarray, " _"]:
    """Draw ``count`` of the test ``rows`` at random (all if there are fewer), in the order in which they were drawn.

    On a released QH9 file they are drawn as the QH9 benchmark does, from the rows that belong to the test parts of
    both splits: 50 rows are exactly those of the benchmark. On other databases, and if ``rows`` does not contain all
    of those, the same generator draws from ``rows``.
    """
    pool = np.unique(rows)
    if isinstance(database, QH9Database) and database.release:
        first, second = (database.split(name)["test"] for name in SPLIT_NAMES[database.flavour])
        common = np.intersect1d(first, second)
        if np.isin(common, pool).all():
            pool = common
    return np.random.default_rng(SEED).choice(pool, min(count, len(pool)), replace=False)


@dataclass(frozen=True)
class PredictedMolecule:
    """A molecule of a database with its predicted Hamiltonian (angstrom; hartree, PySCF's orbital order)."""

    row: int
    name: str
    formula: str
    numbers: Int[np.ndarray, " n_atoms"]
    positions: Float[np.ndarray, "n_atoms 3"]
    reference: Float[np.ndarray, "n n"]
    predicted: Float[np.ndarray, "n n"]
    seconds: float  # wall time of the prediction
    spread: float | None = None  # over several networks, whose mean is predicted, hartree


def solve_all(
    tasks: Sequence[tuple[ScfTask, ScfStore]],
    settings: ScfSettings,
    *,
    processes: int,
    report: Callable[[str], None] = lambda line: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    work: Callable[[ScfTask, ScfSettings], ScfRun] = solve,
) -> list[ScfRun | str]:
    """Load every run from its store, or compute it and save it there.

    A run that fails, even because its process died, does not stop the others.

    Args:
        tasks: each task with the store of its run.
        settings: of all runs.
        processes: largest number of parallel processes.
        report: receives a line if finished runs cannot be saved.
        on_progress: called at the start and after each run with the number of finished runs and of all runs.
        work: computes a run; tests replace it.

    Returns:
        For each task its run, or the reason why it failed.

    Raises:
        GenerationError: stopped by a signal; finished runs are saved.
    """
    results: dict[int, ScfRun | str] = {}
    unsaved: list[str] = []
    for i, (task, store) in enumerate(tasks):
        stored = store.load(task, settings)
        if stored is not None:
            results[i] = stored

    def finish(i: int, result: ScfRun | str) -> None:
        results[i] = result
        if isinstance(result, ScfRun) and not unsaved:
            task, store = tasks[i]
            try:
                store.save(task, settings, result)
            except TraceGradError as error:  # a full disk must not stop the other runs
                unsaved.append(str(error))
                report(f"SCF runs are not saved: {error}")
        on_progress(len(results), len(tasks))

    with stop_signals() as stopped:
        on_progress(len(results), len(tasks))
        while len(results) < len(tasks) and not stopped:
            queue = deque(i for i in range(len(tasks)) if i not in results)
            with WorkerPool(min(processes, len(queue))) as pool:
                try:
                    for i, result in work_through(
                        pool, queue, lambda i: (work, tasks[i][0], settings), stopped
                    ):
                        finish(i, result.reason if isinstance(result, TaskFailure) else result)
                except WorkerDied as error:
                    # Ctrl-C reaches the workers too; their end is no failure then.
                    if not stopped:
                        finish(error.key, f"its process died ({error})")
    if stopped:
        done = sum(isinstance(result, ScfRun) for result in results.values())
        raise GenerationError(
            f"stopped by {signal.Signals(stopped[0]).name} after {done} of {len(tasks)} SCF runs; "
            "those are saved: run the same command again to go on"
        )
    return [results[i] for i in range(len(tasks))]


def accelerations(
    molecules: Sequence[PredictedMolecule],
    guesses: Sequence[str],
    settings: ScfSettings,
    baselines: ScfStore,
    predictions: ScfStore,
    *,
    processes: int,
    report: Callable[[str], None] = lambda line: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    work: Callable[[ScfTask, ScfSettings], ScfRun] = solve,
) -> tuple[list[Acceleration], list[str]]:
    """Run the SCF of every molecule from its prediction and from the standard guesses.

    Args:
        molecules: with predictions.
        guesses: PySCF's names of standard guesses; the first one decides whether two runs reach the same state.
        settings: of all runs.
        baselines: store of runs from the guesses, which do not depend on the network.
        predictions: store of runs from the predictions.
        processes, report, on_progress, work: see `solve_all`.

    Returns:
        The results of the molecules whose runs were all computed, and a line on each run that failed.
    """
    tasks: list[tuple[ScfTask, ScfStore]] = []
    for molecule in molecules:
        label = (molecule.row, molecule.numbers, molecule.positions, molecule.reference)
        tasks.append((ScfTask(*label, PREDICTION, molecule.predicted), predictions))
        tasks += [(ScfTask(*label, guess), baselines) for guess in guesses]
    outcomes = iter(
        solve_all(tasks, settings, processes=processes, report=report, on_progress=on_progress, work=work)
    )
    results, failures = [], []
    for molecule in molecules:
        runs: dict[str, ScfRun] = {}
        for start in (PREDICTION, *guesses):
            outcome = next(outcomes)
            if isinstance(outcome, ScfRun):
                runs[start] = outcome
            else:
                failures.append(f"row {molecule.row} ({molecule.name}), SCF from {start}: {outcome}")
        if len(runs) <= len(guesses):
            continue
        results.append(
            Acceleration(
                row=molecule.row,
                name=molecule.name,
                formula=molecule.formula,
                numbers=molecule.numbers,
                level=mean_absolute(molecule.predicted, molecule.reference),
                seconds_predicting=molecule.seconds,
                prediction=runs.pop(PREDICTION),
                guesses=runs,
                spread=molecule.spread,
            )
        )
    return results, failures
