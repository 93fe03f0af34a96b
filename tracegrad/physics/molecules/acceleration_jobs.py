"""SCF runs of many molecules in parallel processes of one thread each."""

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
    """A molecule of a database (angstrom; hartree, PySCF's orbital order) and what a network says of it."""

    row: int
    name: str
    formula: str
    numbers: Int[np.ndarray, " n_atoms"]
    positions: Float[np.ndarray, "n_atoms 3"]
    reference: Float[np.ndarray, "n n"]
    predicted: Float[np.ndarray, "n n"]
    seconds: float  # that the prediction took


@dataclass(frozen=True)
class ScfOutcomes:
    """Runs and reasons of failures, by the position of the task."""

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
    """Load every run from its store, or compute it and keep it there.

    A run that fails, even by the death of its process, does not stop the others.

    Args:
        tasks: what to do, and where finished runs are kept.
        settings: of all runs.
        processes: at most so many at a time.
        report: takes a line about what goes wrong beside the runs themselves.
        on_progress: called at the start and after each run with the numbers of runs done and of all.
        work: in place of `run_task`, for tests.

    Raises:
        GenerationError: stopped by a signal; finished runs are kept.
    """
    runs: dict[int, ScfRun] = {}
    failures: dict[int, str] = {}
    queue: deque[int] = deque()
    for i, (task, store) in enumerate(tasks):
        found = store.load(task, settings)
        if found is None:
            queue.append(i)
        else:
            runs[i] = found
    kept = True
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
                                kept = kept and _keep(tasks[i], settings, result, report)
                            on_progress(len(runs) + len(failures), len(tasks))
                except WorkerDied as error:
                    # A signal to the whole process group ends workers too.
                    if not stopped:
                        failures[error.key] = f"its process died ({error})"
                        queue.extendleft(sorted(at_work - {error.key}, reverse=True))
                        on_progress(len(runs) + len(failures), len(tasks))
    if stopped:
        raise GenerationError(
            f"stopped by {signal.Signals(stopped[0]).name} after {len(runs)} of {len(tasks)} SCF runs; "
            "those are kept: run the same command again to go on"
        )
    return ScfOutcomes(runs, failures)


def _keep(
    task: tuple[ScfTask, ScfStore], settings: ScfSettings, run: ScfRun, report: Callable[[str], None]
) -> bool:
    """Whether a run could be kept; a full disk is no reason to lose the others."""
    try:
        task[1].save(task[0], settings, run)
    except TraceGradError as error:
        report(f"SCF runs are not kept: {error}")
        return False
    return True


def accelerations(
    molecules: Sequence[PredictedMolecule],
    guesses: Sequence[str],
    settings: ScfSettings,
    baselines: ScfStore,
    own: ScfStore,
    *,
    processes: int,
    report: Callable[[str], None] = lambda line: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    work: Callable[[ScfTask, ScfSettings], ScfRun] | None = None,
) -> tuple[list[Acceleration], list[str]]:
    """Run every molecule from its prediction and from the guesses; what could not be run is said, one line each.

    Args:
        molecules: with predictions.
        guesses: PySCF's names of standard guesses; same states are judged by the first one.
        settings: of all runs.
        baselines: keeps runs from the guesses, which other networks share.
        own: keeps runs from the predictions.
        processes, report, on_progress, work: see `solve_all`.
    """
    starts = (PREDICTION, *guesses)
    tasks: list[tuple[ScfTask, ScfStore]] = []
    for molecule in molecules:
        for start in starts:
            hamiltonian = molecule.predicted if start == PREDICTION else None
            geometry = (molecule.numbers, molecule.positions, molecule.reference)
            task = ScfTask(molecule.row, *geometry, start, hamiltonian)
            tasks.append((task, own if start == PREDICTION else baselines))
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
