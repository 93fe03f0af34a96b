"""Runs compared: one row an arm, mean over seeds, change against the baseline (Tables 1, 2, 6 and 7)."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from tracegrad.challenge import (
    METRIC_B,
    METRIC_S,
    Challenge,
    NoChallengeError,
    challenge_metrics,
    find_challenge,
    metric_key,
)
from tracegrad.results import ResultsError, RunResult

# The arms in the order of the tables, each with what it switches on: (trace, grad).
ARMS = {"none": (False, False), "trace": (True, False), "grad": (False, True), "tracegrad": (True, True)}
BASELINE = "none"
TRIVIAL = "trivial"
# The trivial predictor follows from the data alone; runs that differ by more have seen other data.
TRIVIAL_TOLERANCE = 1e-3
ALL = "test/h_mae"
# The paper's superscripts of the subsets of a test set.
MARKS = {"": "nt", "twisted": "t"}


@dataclass(frozen=True)
class Column:
    """A metric of the test set."""

    key: str
    name: str
    unit: str = "meV"
    lower_is_better: bool = True


MOLECULES = (
    Column(ALL, "MAE^H_all"),
    Column("test/h_mae_diag", "MAE^H_diag"),
    Column("test/h_mae_nondiag", "MAE^H_nondiag"),
    Column("test/eps_mae", "MAE^eps"),
    Column("test/psi_cosine", "Sim(psi)", unit="", lower_is_better=False),
)
# For each subset of the test set.
CRYSTALS = (
    Column(ALL, "MAE^H_all"),
    Column(METRIC_S, "MAE^H_cha_s"),
    Column(METRIC_B, "MAE^H_cha_b"),
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
    """The rows of one experiment on one split of one database.

    ``subsets`` names the parts of the test set that have columns of their own. ``footnotes`` explain the
    columns, ``notes`` what to mind in comparing the rows.
    """

    experiment: str
    database: str
    database_label: str
    split: str
    split_hash: str
    backbone: str
    checkpoint: str
    part: str
    crystal: bool
    counts: dict[str, int]
    subsets: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    challenge: Challenge | None
    footnotes: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def title(self) -> str:
        """Short heading, such as "QD, geometry split"."""
        return f"{self.database_label}, {self.split} split"

    @property
    def arms(self) -> tuple[Row, ...]:
        """The rows of trained networks."""
        return tuple(row for row in self.rows if row.arm != TRIVIAL)

    @property
    def samples(self) -> str:
        """What the database holds."""
        return _samples(self.crystal)

    def superscript(self, subset: str) -> str:
        """The paper's superscript of a subset in brackets; "" where there is nothing to tell apart."""
        return _superscript(subset, self.subsets)


def results_table(
    results: Iterable[RunResult], baseline: RunResult | None = None, worst: int = 1
) -> list[ResultsTable]:
    """One table for each database, split, part, backbone and experiment; runs of different ones never share a row.

    Args:
        results: the runs.
        baseline: run of the plain backbone whose ``worst`` samples and block make the columns MAE_cha of
            crystals on the same data; elsewhere, and with None, it is the run of the plain backbone with the
            lowest seed in the table.
        worst: how many samples MAE_cha_s takes.

    Raises:
        ResultsError: an arm has a seed twice, runs of a row differ in more than their seed, runs of a
            table saw different data, or the baseline fits no table or does not tell its errors.
        ConfigError: ``worst`` is below 1 or more than the test set has.
    """
    groups: dict[tuple[str | bool, ...], list[RunResult]] = {}
    for run in results:
        groups.setdefault((*_data(run), run.experiment), []).append(run)
    if baseline is not None:
        _check_baseline(baseline, groups)
    return [_table(groups[key], baseline, worst) for key in sorted(groups)]


def _data(run: RunResult) -> tuple[str | bool, ...]:
    data = (run.database_label, run.database, run.split, run.split_hash, run.part)
    return (*data, run.backbone, run.crystal)


def _samples(crystal: bool) -> str:
    return "structures" if crystal else "molecules"


def _superscript(subset: str, subsets: Sequence[str]) -> str:
    return f" ({MARKS.get(subset, subset)})" if tuple(subsets) != ("",) else ""


def _check_baseline(baseline: RunResult, groups: Iterable[tuple[str | bool, ...]]) -> None:
    if baseline.arm != BASELINE:
        raise ResultsError(
            f"{baseline.directory} is a run of {baseline.label}; the baseline of MAE_cha must be one of the "
            "plain backbone"
        )
    if not baseline.crystal or _data(baseline) not in {key[:-1] for key in groups}:
        raise ResultsError(
            f"{baseline.directory} is a run of {baseline.backbone} on {baseline.database} "
            f"({baseline.split} split {baseline.split_hash}, {baseline.part} set); no table of crystals is of "
            "these data: give a baseline of the data of the runs, or none"
        )


def _table(runs: list[RunResult], given: RunResult | None, worst: int) -> ResultsTable:
    runs = sorted(runs, key=lambda run: run.seed)
    first = runs[0]
    if given is not None and _data(given) != _data(first):
        given = None
    found = {run.arm for run in runs}
    arms = [arm for arm in ARMS if arm in found] + sorted(found - ARMS.keys())
    for arm in arms:
        _check_row([run for run in runs if run.arm == arm])
    _check_data(runs if given is None else [given, *runs])
    subsets = _subsets(runs)
    challenge, footnotes = _challenge(runs, given, worst, subsets) if first.crystal else (None, [])
    runs, gaps = _with_challenge(runs, challenge)
    possible = _columns(first.crystal, subsets)
    rows = [_row(arm, [run for run in runs if run.arm == arm], possible) for arm in arms]
    trivial = _trivial(first, possible)
    columns = tuple(column for column in possible if any(column.key in row.cells for row in rows))
    baseline = next((row for row in rows if row.arm == BASELINE), None)
    rows = [_with_change(row, baseline) for row in rows]
    for column in columns:
        rows = _with_best(rows, column)
    return ResultsTable(
        first.experiment,
        first.database,
        first.database_label,
        first.split,
        first.split_hash,
        first.backbone,
        first.checkpoint,
        first.part,
        first.crystal,
        first.counts,
        subsets,
        columns,
        (*([trivial] if trivial.cells else []), *rows),
        challenge,
        tuple(footnotes),
        (*gaps, *_notes(rows, columns, baseline)),
    )


def _subsets(runs: Sequence[RunResult]) -> tuple[str, ...]:
    """Subsets of the test set with results: those of the paper in its order, then others."""
    if not runs[0].crystal:
        return ("",)
    found = {key.removeprefix(ALL).removeprefix("/") for run in runs for key in run.metrics if _is_all(key)}
    return tuple(sorted(found, key=lambda subset: (subset not in MARKS, subset)))


def _is_all(key: str) -> bool:
    return key == ALL or key.startswith(f"{ALL}/")


def _columns(crystal: bool, subsets: Sequence[str]) -> tuple[Column, ...]:
    if not crystal:
        return MOLECULES
    return tuple(
        replace(column, key=metric_key(column.key, subset), name=column.name + _superscript(subset, subsets))
        for subset in subsets
        for column in CRYSTALS
    )


def _challenge(
    runs: Sequence[RunResult], given: RunResult | None, worst: int, subsets: Sequence[str]
) -> tuple[Challenge | None, list[str]]:
    """The challenge of the given baseline, or else of the table's own, and footnotes on it; runs by seed."""
    baseline = given or next((run for run in runs if run.arm == BASELINE), None)
    if baseline is None:
        return None, ["no run of the plain backbone: no MAE_cha, which is taken where that is worst"]
    try:
        challenge = find_challenge(baseline.directory, worst)
    except NoChallengeError as error:
        if given is not None:
            raise
        return None, [f"no MAE_cha: {error}"]
    samples = "sample" if worst == 1 else f"{worst} samples"
    lines = [
        f"MAE_cha: the worst {samples} (s) and the worst basic block (b) of {baseline.label}, seed "
        f"{baseline.seed} ({baseline.directory}); k = {worst} is our choice, the paper gives none"
    ]
    for part in challenge.subsets:
        names = ", ".join(sample.name for sample in part.samples)
        lines.append(
            f"MAE_cha{_superscript(part.subset, subsets)}: s = {names}; b = {' x '.join(part.block)}"
        )
    return challenge, lines


def _with_challenge(
    runs: Sequence[RunResult], challenge: Challenge | None
) -> tuple[list[RunResult], list[str]]:
    """The runs with their metrics on the challenge, and notes on those that do not tell them."""
    if challenge is None:
        return list(runs), []
    found, notes = [], []
    for run in runs:
        try:
            metrics = challenge_metrics(run.directory, challenge)
        except NoChallengeError as error:
            metrics = {}
            notes.append(f"{run.label}, seed {run.seed}: no MAE_cha, {error}")
        found.append(replace(run, metrics={**run.metrics, **metrics}))
    return found, notes


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
                f"{first.directory} used {first.counts} {_samples(first.crystal)} and {run.directory} {run.counts}; "
                "runs on different parts of the data are no ablation: report them separately"
            )
        for name in first.trivial.keys() & run.trivial.keys():
            if not math.isclose(first.trivial[name], run.trivial[name], rel_tol=TRIVIAL_TOLERANCE):
                raise ResultsError(
                    f"the trivial predictor has {name} {first.trivial[name]:g} in {first.directory} and "
                    f"{run.trivial[name]:g} in {run.directory}: these runs saw different data under the "
                    f"name {run.database}; report them separately"
                )


def _row(arm: str, runs: list[RunResult], columns: Iterable[Column]) -> Row:
    cells = {}
    for column in columns:
        values = tuple(float(run.metrics[column.key]) for run in runs if column.key in run.metrics)
        if values:
            std = float(np.std(values, ddof=1)) if len(values) > 1 else None
            cells[column.key] = Cell(values, float(np.mean(values)), std)
    return Row(arm, runs[0].label, cells, tuple(runs))


def _trivial(run: RunResult, columns: Iterable[Column]) -> Row:
    known = {column.key for column in columns}
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
