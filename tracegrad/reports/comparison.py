"""Makes tables from the results of runs: one row for each arm, mean over seeds, change against the baseline.

tables = results_table(collect_results("runs"))
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from tracegrad.metrics.columns import Column
from tracegrad.reports.arms import ARM_LABELS, BASELINE
from tracegrad.reports.challenge import Challenge, challenge_metrics, find_challenge
from tracegrad.reports.columns import ALL, MARKS, columns_of, superscript
from tracegrad.reports.compatible import Data, check_baseline, check_data, check_row, data_of
from tracegrad.reports.results import RunResult
from tracegrad.reports.samples import NotMeasuredError
from tracegrad.reports.table import HEAD, TRIVIAL, Cell, ResultsTable, Row, with_best


def results_table(
    results: Iterable[RunResult], baseline: RunResult | None = None, worst: int = 1
) -> list[ResultsTable]:
    """One table for each combination of database, split, part, backbone and experiment.

    Args:
        results: the runs.
        baseline: run of the plain backbone whose ``worst`` samples and worst block define the columns MAE_cha of
            the table of crystals on the same data. In other tables, and without it, this is the run of the plain
            backbone with the lowest seed.
        worst: number of samples of MAE_cha_s.

    Raises:
        ResultsError: an arm has two runs of the same seed and repetition, runs of a row differ in more than these,
            runs of a table saw different data, or the baseline belongs to no table or has no tables of its errors.
        ConfigError: ``worst`` is below 1 or exceeds the size of the test set.
    """
    groups: dict[tuple[Data, str], list[RunResult]] = {}
    for run in results:
        groups.setdefault((data_of(run), run.experiment), []).append(run)
    if baseline is not None:
        check_baseline(baseline, (data for data, _ in groups))
    return [_table(groups[key], baseline, worst) for key in sorted(groups)]


def _table(runs: list[RunResult], chosen_baseline: RunResult | None, worst: int) -> ResultsTable:
    runs = sorted(runs, key=lambda run: run.repetition_key)
    first = runs[0]
    if chosen_baseline is not None and data_of(chosen_baseline) != data_of(first):
        chosen_baseline = None
    groups = _rows_of(runs)
    for members in groups.values():
        check_row(members)
    check_data(runs if chosen_baseline is None else [chosen_baseline, *runs])
    subsets = _subsets(runs)
    challenge, footnotes = _challenge(runs, chosen_baseline, worst, subsets) if first.crystal else (None, [])
    gaps: list[str] = []
    possible = columns_of(first.crystal, subsets, [column for run in runs for column in run.columns])
    rows = []
    for members in groups.values():
        measured, missing = _with_challenge(members, challenge)
        rows.append(_row(measured, possible))
        gaps += missing
    trivial = _trivial(first, possible)
    columns = tuple(column for column in possible if any(column.key in row.cells for row in rows))
    rows = [_with_change(row, _baseline(row, rows), columns) for row in rows]
    marked = with_best([row.cells for row in rows], columns)
    rows = [replace(row, cells=cells) for row, cells in zip(rows, marked, strict=True)]
    return ResultsTable(
        **{name: getattr(first, name) for name in (*HEAD, "crystal", "counts")},
        subsets=subsets,
        columns=columns,
        rows=(*([trivial] if trivial.cells else []), *rows),
        challenge=challenge,
        footnotes=tuple(footnotes),
        notes=(*gaps, *_notes(rows, columns)),
    )


def _rows_of(runs: Sequence[RunResult]) -> dict[tuple[str, str], list[RunResult]]:
    """The runs of each arm and variant, in the order of the rows."""
    groups: dict[tuple[str, str], list[RunResult]] = {}
    for run in runs:
        groups.setdefault((run.arm, run.variant), []).append(run)
    arms = list(ARM_LABELS)
    order = sorted(groups, key=lambda key: (arms.index(key[0]) if key[0] in ARM_LABELS else len(arms), key))
    return {key: groups[key] for key in order}


def _subsets(runs: Sequence[RunResult]) -> tuple[str, ...]:
    """Subsets of the test set with results: those of ``MARKS`` in its order, then the others."""
    if not runs[0].crystal:
        return ("",)
    measured = {
        key.removeprefix(ALL).removeprefix("/")
        for run in runs
        for key in run.metrics
        if key == ALL or key.startswith(f"{ALL}/")
    }
    order = list(MARKS)
    return tuple(sorted(measured, key=lambda one: (order.index(one) if one in order else len(order), one)))


def _challenge(
    runs: Sequence[RunResult], chosen_baseline: RunResult | None, worst: int, subsets: Sequence[str]
) -> tuple[Challenge | None, list[str]]:
    """The challenging samples and blocks, and footnotes about them.

    They are chosen by ``chosen_baseline``, or else by the first run of the plain backbone; ``runs`` are in the order
    of their seeds.
    """
    baseline = chosen_baseline or next((run for run in runs if run.arm == BASELINE), None)
    if baseline is None:
        return None, ["no run of the plain backbone: no MAE_cha, which needs its errors"]
    try:
        challenge = find_challenge(baseline.directory, worst)
    except NotMeasuredError as error:
        if chosen_baseline is not None:
            raise
        return None, [f"no MAE_cha: {error}"]
    samples = "sample" if worst == 1 else f"{worst} samples"
    lines = [
        f"MAE_cha: the worst {samples} (s) and the worst basic block (b) of {baseline.label}, "
        f"{baseline.repetition_name} ({baseline.directory}); k = {worst} is our choice, the paper gives none"
    ]
    for part in challenge.subsets:
        names = ", ".join(entry.sample.name for entry in part.samples)
        lines.append(f"MAE_cha{superscript(part.subset, subsets)}: s = {names}; b = {' x '.join(part.block)}")
    return challenge, lines


def _with_challenge(
    runs: Sequence[RunResult], challenge: Challenge | None
) -> tuple[list[RunResult], list[str]]:
    """The runs with their errors on the challenging samples and blocks, and notes on runs without such errors."""
    if challenge is None:
        return list(runs), []
    with_metrics, notes = [], []
    for run in runs:
        try:
            metrics = challenge_metrics(run.directory, challenge)
        except NotMeasuredError as error:
            metrics = {}
            notes.append(f"{run.label}, {run.repetition_name}: no MAE_cha, {error}")
        with_metrics.append(replace(run, metrics={**run.metrics, **metrics}))
    return with_metrics, notes


def _row(runs: list[RunResult], columns: Iterable[Column]) -> Row:
    cells = {}
    for column in columns:
        values = _measured(runs, column.key)
        if not values:
            continue
        if column.over_samples:
            spreads = _measured(runs, f"{column.key}_std")
            std = float(np.mean(spreads)) if spreads else None
        else:
            std = float(np.std(values, ddof=1)) if len(values) > 1 else None
        cells[column.key] = Cell(values, float(np.mean(values)), std)
    first = runs[0]
    label = f"{first.label}, {first.variant}" if first.variant else first.label
    return Row(first.arm, label, cells, tuple(runs), first.variant)


def _measured(runs: Iterable[RunResult], key: str) -> tuple[float, ...]:
    return tuple(float(run.metrics[key]) for run in runs if key in run.metrics)


def _trivial(run: RunResult, columns: Iterable[Column]) -> Row:
    known = {column.key for column in columns}
    cells = {key: Cell((value,), value) for key, value in run.trivial.items() if key in known}
    return Row(TRIVIAL, "trivial predictor", cells)


def _baseline(row: Row, rows: Sequence[Row]) -> Row | None:
    """The row of the plain backbone of the same variant, or else the one without a variant."""
    plain = {other.variant: other for other in rows if other.arm == BASELINE}
    return plain.get(row.variant, plain.get(""))


def _with_change(row: Row, baseline: Row | None, columns: Iterable[Column]) -> Row:
    if baseline is None or row is baseline:
        return row
    cells = dict(row.cells)
    for column in columns:
        cell, reference = row.cells.get(column.key), baseline.cells.get(column.key)
        if cell and reference and reference.mean != 0 and column.lower_is_better is not None:
            cells[column.key] = replace(cell, change=100 * (cell.mean / reference.mean - 1))
    return replace(row, cells=cells)


def _notes(rows: Sequence[Row], columns: Sequence[Column]) -> list[str]:
    notes = []
    single = [row.label for row in rows if len(row.runs) == 1]
    if len(single) == len(rows):
        notes.append("one seed in every row: no spread")
    elif single:
        notes.append(f"one seed, no spread: {', '.join(single)}")
    repeated = sorted({seed for row in rows for seed, times in Counter(row.seeds).items() if times > 1})
    if repeated:
        notes.append(
            f"seed {', '.join(map(str, repeated))} is repeated, as in the paper: its spread is only the noise of "
            "the hardware, not that of initial weights and training order"
        )
    if len({tuple(run.repetition_key for run in row.runs) for row in rows}) > 1:
        notes.append("the rows have different seeds; their means compare different sets of runs")
    checkpoints = sorted({run.checkpoint for row in rows for run in row.runs})
    if len(checkpoints) > 1:
        notes.append(f"the rows are of different checkpoints: {', '.join(checkpoints)}")
    if all(row.arm != BASELINE for row in rows):
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
