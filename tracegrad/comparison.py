"""Runs compared: one row an arm, mean over seeds, change against the baseline (Tables 2, 6 and 7)."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from tracegrad.results import ResultsError, RunResult

ARMS = ("none", "trace", "grad", "tracegrad")
BASELINE = "none"
TRIVIAL = "trivial"
# The trivial predictor follows from the data alone; runs that differ by more have seen other data.
TRIVIAL_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Column:
    """A metric of the test set."""

    key: str
    name: str
    unit: str = "meV"
    lower_is_better: bool = True


COLUMNS = (
    Column("test/h_mae", "MAE^H_all"),
    Column("test/h_mae_diag", "MAE^H_diag"),
    Column("test/h_mae_nondiag", "MAE^H_nondiag"),
    Column("test/eps_mae", "MAE^eps"),
    Column("test/psi_cosine", "Sim(psi)", unit="", lower_is_better=False),
)


@dataclass(frozen=True)
class Cell:
    """One metric of one row.

    ``std`` is the sample standard deviation over seeds (None: one seed), ``change`` the relative change of
    the mean against the baseline in percent (None: the baseline itself, or there is none).
    """

    values: tuple[float, ...]
    mean: float
    std: float | None = None
    change: float | None = None
    best: bool = False


@dataclass(frozen=True)
class Row:
    """One arm, or the trivial predictor; ``cells`` by the key of the column, absent where not measured."""

    arm: str
    label: str
    cells: dict[str, Cell]
    runs: tuple[RunResult, ...] = ()

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds behind the means, ascending."""
        return tuple(run.seed for run in self.runs)

    @property
    def steps(self) -> tuple[int, ...]:
        """Optimisation steps of the checkpoints, in the order of the seeds."""
        return tuple(run.step for run in self.runs)

    @property
    def seconds(self) -> float | None:
        """Mean training time; None where a run did not measure it."""
        seconds = [run.train_seconds for run in self.runs if run.train_seconds is not None]
        return float(np.mean(seconds)) if seconds and len(seconds) == len(self.runs) else None


@dataclass(frozen=True)
class ResultsTable:
    """The rows of one experiment on one split of one database."""

    experiment: str
    database: str
    database_label: str
    split: str
    split_hash: str
    backbone: str
    checkpoint: str
    part: str
    counts: dict[str, int]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    @property
    def title(self) -> str:
        """Short heading, such as "QD, geometry split"."""
        return f"{self.database_label}, {self.split} split"

    @property
    def arms(self) -> tuple[Row, ...]:
        """The rows of trained networks."""
        return tuple(row for row in self.rows if row.arm != TRIVIAL)


def results_table(results: Iterable[RunResult]) -> list[ResultsTable]:
    """One table for each database, split, part, backbone and experiment; runs of different ones never share a row.

    Raises:
        ResultsError: an arm has a seed twice, runs of a row differ in more than their seed, or runs of a
            table saw different data.
    """
    groups: dict[tuple[str, ...], list[RunResult]] = {}
    for run in results:
        data = (run.database_label, run.database, run.split, run.split_hash, run.part)
        key = (*data, run.backbone, run.experiment)
        groups.setdefault(key, []).append(run)
    return [_table(groups[key]) for key in sorted(groups)]


def _table(runs: list[RunResult]) -> ResultsTable:
    by_arm: dict[str, list[RunResult]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        by_arm.setdefault(run.arm, []).append(run)
    arms = [arm for arm in ARMS if arm in by_arm] + sorted(by_arm.keys() - set(ARMS))
    for arm in arms:
        _check_row(by_arm[arm])
    _check_data(runs)
    rows = [_row(arm, by_arm[arm]) for arm in arms]
    trivial = _trivial(runs[0])
    columns = tuple(column for column in COLUMNS if any(column.key in row.cells for row in rows))
    baseline = next((row for row in rows if row.arm == BASELINE), None)
    rows = [_with_change(row, baseline) for row in rows]
    for column in columns:
        rows = _with_best(rows, column)
    first = runs[0]
    return ResultsTable(
        first.experiment,
        first.database,
        first.database_label,
        first.split,
        first.split_hash,
        first.backbone,
        first.checkpoint,
        first.part,
        first.counts,
        columns,
        (*([trivial] if trivial.cells else []), *rows),
        tuple(_notes(rows, columns, baseline)),
    )


def _check_row(runs: list[RunResult]) -> None:
    for one, other in combinations(runs, 2):
        if one.seed == other.seed:
            raise ResultsError(
                f"seed {one.seed} of {one.label} stands twice: {one.directory} and {other.directory}; "
                "remove one of them or report them separately"
            )
        for name in ("label", "parameters", "checkpoint"):
            if getattr(one, name) != getattr(other, name):
                raise ResultsError(
                    f"runs of {one.label} differ in more than their seed: {name} is "
                    f"{getattr(one, name)!r} in {one.directory}, {getattr(other, name)!r} in {other.directory}; "
                    "report them separately"
                )


def _check_data(runs: list[RunResult]) -> None:
    first = runs[0]
    for run in runs[1:]:
        if first.counts != run.counts:
            raise ResultsError(
                f"{first.directory} used {first.counts} molecules and {run.directory} {run.counts}; "
                "runs on different parts of the data are no ablation: report them separately"
            )
        for name in first.trivial.keys() & run.trivial.keys():
            if not math.isclose(first.trivial[name], run.trivial[name], rel_tol=TRIVIAL_TOLERANCE):
                raise ResultsError(
                    f"the trivial predictor has {name} {first.trivial[name]:g} in {first.directory} and "
                    f"{run.trivial[name]:g} in {run.directory}: these runs saw different data under the "
                    f"name {run.database}; report them separately"
                )


def _row(arm: str, runs: list[RunResult]) -> Row:
    cells = {}
    for column in COLUMNS:
        values = tuple(float(run.metrics[column.key]) for run in runs if column.key in run.metrics)
        if values:
            std = float(np.std(values, ddof=1)) if len(values) > 1 else None
            cells[column.key] = Cell(values, float(np.mean(values)), std)
    return Row(arm, runs[0].label, cells, tuple(runs))


def _trivial(run: RunResult) -> Row:
    known = {column.key for column in COLUMNS}
    cells = {key: Cell((value,), value) for key, value in run.trivial.items() if key in known}
    return Row(TRIVIAL, "trivial predictor", cells)


def _with_change(row: Row, baseline: Row | None) -> Row:
    if baseline is None or row is baseline:
        return row
    cells = {}
    for key, cell in row.cells.items():
        reference = baseline.cells.get(key)
        change = None
        if reference is not None and reference.mean != 0:
            change = 100 * (cell.mean / reference.mean - 1)
        cells[key] = replace(cell, change=change)
    return replace(row, cells=cells)


def _with_best(rows: list[Row], column: Column) -> list[Row]:
    """Rows with the best mean marked; a single row has nothing to be better than."""
    means = [row.cells[column.key].mean for row in rows if column.key in row.cells]
    finite = [mean for mean in means if math.isfinite(mean)]
    if len(means) < 2 or not finite:
        return rows
    best = min(finite) if column.lower_is_better else max(finite)
    return [_mark(row, column.key) if _mean(row, column.key) == best else row for row in rows]


def _mark(row: Row, key: str) -> Row:
    return replace(row, cells={**row.cells, key: replace(row.cells[key], best=True)})


def _mean(row: Row, key: str) -> float | None:
    return row.cells[key].mean if key in row.cells else None


def _notes(rows: Sequence[Row], columns: Sequence[Column], baseline: Row | None) -> list[str]:
    notes = []
    single = [row.label for row in rows if len(row.runs) == 1]
    if len(single) == len(rows):
        notes.append("one seed in every row: no spread")
    elif single:
        notes.append(f"one seed, no spread: {', '.join(single)}")
    if len({row.seeds for row in rows}) > 1:
        notes.append("the rows have different seeds; their means compare different sets of runs")
    checkpoints = sorted({run.checkpoint for row in rows for run in row.runs})
    if len(checkpoints) > 1:
        notes.append(f"the rows stand for different checkpoints: {', '.join(checkpoints)}")
    if baseline is None:
        notes.append("no run of the plain backbone: no relative changes")
    for row in rows:
        for column in columns:
            values = row.cells[column.key].values if column.key in row.cells else ()
            if len(values) < len(row.runs):
                notes.append(
                    f"{row.label}: {column.name} was measured for {len(values)} of {len(row.runs)} seeds"
                )
            if not all(math.isfinite(value) for value in values):
                notes.append(f"{row.label}: {column.name} is not finite for every seed")
    return notes
