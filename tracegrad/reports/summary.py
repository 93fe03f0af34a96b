"""The short answer of an ablation: the error of each arm and its change against the baseline, on one screen."""

from collections.abc import Sequence
from dataclasses import replace

from tracegrad.metrics.columns import HAMILTONIAN, Column, log_name
from tracegrad.reports.arms import BASELINE
from tracegrad.reports.grid import (
    FAINT,
    PLAIN,
    SECTION,
    Grid,
    GridCell,
    GridHead,
    GridLine,
    data_line,
    difference_cell,
    metric_cell,
)
from tracegrad.reports.paired import LEVEL, ArmPair, Difference
from tracegrad.reports.table import TRIVIAL, ResultsTable, Row

PRIMARY = log_name("test", HAMILTONIAN[0].key)


def summary_grid(table: ResultsTable, pairs: Sequence[ArmPair]) -> Grid | None:
    """A line for each arm: MAE^H_all on the test set, and its difference from the baseline with the interval.

    Args:
        table: the results; where the test set has subsets, each has a section.

    Returns:
        The grid; None if no row has a MAE^H_all.
    """
    columns = [
        column for column in table.columns if column.key.startswith(PRIMARY + "/") or column.key == PRIMARY
    ]
    against = {
        pair.first.name: pair for pair in pairs if pair.second.arm == BASELINE and not pair.second.variant
    }
    lines = []
    for column in columns:
        if len(columns) > 1:
            lines.append(GridLine(column.name, style=SECTION))
        for row in table.rows:
            if column.key in row.cells:
                pair = against.get(row.name)
                difference = pair.differences.get(column.key) if pair is not None else None
                lines.append(_line(row, column, difference))
    if not lines:
        return None
    heads = (
        GridHead(HAMILTONIAN[0].name, unit=HAMILTONIAN[0].unit),
        GridHead("change"),
        GridHead(f"difference [{LEVEL:.0%} interval]"),
        GridHead("which shows"),
    )
    captions = (data_line(table), *table.footnotes, *table.notes)
    return Grid(table.title, _trained(table), "method", heads, tuple(lines), captions)


def _line(row: Row, column: Column, difference: Difference | None) -> GridLine:
    value = metric_cell(row.cells[column.key], column)
    shown = GridCell() if difference is None else difference_cell(difference)
    cells = (
        replace(value, extra=""),
        GridCell(value.extra.strip("()")),
        GridCell(shown.value),
        GridCell(shown.extra),
    )
    return GridLine(row.label, cells, FAINT if row.arm == TRIVIAL else PLAIN)


def _trained(table: ResultsTable) -> str:
    """What was trained, in words."""
    runs = [run for row in table.arms for run in row.runs]
    seeds = ", ".join(str(seed) for seed in sorted({run.seed for run in runs}))
    return f"{table.experiment}: {len(runs)} runs of {table.backbone}; seeds {seeds}"
