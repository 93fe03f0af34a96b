"""SCF runs of many molecules in parallel processes with one thread each."""

import signal
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from tracegrad.errors import GenerationError, TraceGradError
from tracegrad.physics.molecules.acceleration import PREDICTION, ScfRun, ScfSettings, mean_absolute
from tracegrad.physics.molecules.acceleration_results import Acceleration
from tracegrad.physics.molecules.acceleration_store import ScfStore
from tracegrad.physics.molecules.acceleration_task import ScfTask, run_task
from tracegrad.system.signals import stop_signals
from tracegrad.system.workers import TaskFailure, WorkerDied, WorkerPool


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


@dataclass(frozen=True)
class ScfOutcomes:
    """The finished runs and the reasons of failures, by the index of the task."""

    runs: dict[int, ScfRun]
    failures: dict[int, str]


def solve_all(
    tasks: Sequence[tuple[ScfTask, ScfStore]],
    settings: ScfSettings,
    *,
    processes: int,
    report: Callable[[str], None] = lambda line: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    work: Callable[[ScfTask, ScfSettings], ScfRun] | None = None,
) -> ScfOutcomes:
    """Load every run from its store, or compute it and save it there.

    A run that fails, even because its process died, does not stop the others.

    Args:
        tasks: each task with the store of its run.
        settings: of all runs.
        processes: largest number of parallel processes.
        report: receives a line if finished runs cannot be saved.
        on_progress: called at the start and after each run with the number of finished runs and of all runs.
        work: computes a run instead of `run_task`, for tests.

    Raises:
        GenerationError: stopped by a signal; finished runs are saved.
    """
    runs: dict[int, ScfRun] = {}
    failures: dict[int, str] = {}
    queue: deque[int] = deque()
    for i, (task, store) in enumerate(tasks):
        stored = store.load(task, settings)
        if stored is None:
            queue.append(i)
        else:
            runs[i] = stored
    saved = True
    with stop_signals() as stopped:
        on_progress(len(runs), len(tasks))
        while queue and not stopped:
            with WorkerPool(min(processes, len(queue))) as pool:
                at_work: set[int] = set()
                try:
                    while (queue or pool.busy) and not stopped:
                        for _ in range(min(pool.idle, len(queue))):
                            i = queue.popleft()
                            at_work.add(i)
                            pool.submit(i, work or run_task, tasks[i][0], settings)
                        for i, result in pool.finished(timeout=0.5):
                            at_work.remove(i)
                            if isinstance(result, TaskFailure):
                                failures[i] = result.reason
                            else:
                                runs[i] = result
                                saved = saved and _save(tasks[i], settings, result, report)
                            on_progress(len(runs) + len(failures), len(tasks))
                except WorkerDied as error:
                    # Ctrl-C reaches the workers too; their end is no failure then.
                    if not stopped:
                        failures[error.key] = f"its process died ({error})"
                        queue.extendleft(sorted(at_work - {error.key}, reverse=True))
                        on_progress(len(runs) + len(failures), len(tasks))
    if stopped:
        raise GenerationError(
            f"stopped by {signal.Signals(stopped[0]).name} after {len(runs)} of {len(tasks)} SCF runs; "
            "those are saved: run the same command again to go on"
        )
    return ScfOutcomes(runs, failures)


def _save(
    task: tuple[ScfTask, ScfStore], settings: ScfSettings, run: ScfRun, report: Callable[[str], None]
) -> bool:
    """Save a run and return whether that was possible; a full disk must not stop the other runs."""
    try:
        task[1].save(task[0], settings, run)
    except TraceGradError as error:
        report(f"SCF runs are not saved: {error}")
        return False
    return True


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
    work: Callable[[ScfTask, ScfSettings], ScfRun] | None = None,
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
    starts = (PREDICTION, *guesses)
    tasks: list[tuple[ScfTask, ScfStore]] = []
    for molecule in molecules:
        for start in starts:
            hamiltonian = molecule.predicted if start == PREDICTION else None
            geometry = (molecule.numbers, molecule.positions, molecule.reference)
            task = ScfTask(molecule.row, *geometry, start, hamiltonian)
            tasks.append((task, predictions if start == PREDICTION else baselines))
    outcome = solve_all(
        tasks, settings, processes=processes, report=report, on_progress=on_progress, work=work
    )
    results, failures = [], []
    for n, molecule in enumerate(molecules):
        numbers = range(n * len(starts), (n + 1) * len(starts))
        reasons = [
            f"row {molecule.row} ({molecule.name}), SCF from {starts[i % len(starts)]}: {outcome.failures[i]}"
            for i in numbers
            if i in outcome.failures
        ]
        if reasons:
            failures += reasons
            continue
        prediction, *others = (outcome.runs[i] for i in numbers)
        results.append(
            Acceleration(
                row=molecule.row,
                name=molecule.name,
                formula=molecule.formula,
                numbers=molecule.numbers,
                level=mean_absolute(molecule.predicted, molecule.reference),
                seconds_predicting=molecule.seconds,
                prediction=prediction,
                guesses=dict(zip(guesses, others, strict=True)),
            )
        )
    return results, failures
