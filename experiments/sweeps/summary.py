"""What came out of a sweep: the points without a result, and the table of a grid."""

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from experiments.sweeps.manifest import SweepState
from experiments.sweeps.points import SweepPoint, label, plain_text
from experiments.sweeps.status import FAILED, FINISHED, LOG, RUNNING, STOPPED, WAITING
from tracegrad.plots.learning_curves import read_metrics
from tracegrad.reports.results import FILE as RESULTS
from tracegrad.reports.results import read_result
from tracegrad.system.whole_files import replacing

VALIDATION = "val/h_mae"
TEST = "test/h_mae"
UNIT = "MAE^H_all (meV), mean ± standard deviation over runs"
MISSING = "runs are missing: the choice is for those that are there"
_AS_IT_IS: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}


@dataclass(frozen=True)
class GridRow:
    """One combination of values.

    Attributes:
        values: of the keys of the grid.
        validation: lowest validation MAE^H_all (meV) of each finished run; infinite for one that diverged.
        test: test MAE^H_all (meV) of each finished run.
        runs: number of its runs, finished or not.
    """

    values: Mapping[str, Any]
    validation: tuple[float, ...]
    test: tuple[float, ...]
    runs: int

    @property
    def complete(self) -> bool:
        """Whether all of its runs are there."""
        return len(self.validation) == self.runs


def grid_rows(state: SweepState) -> list[GridRow]:
    """A row for each combination, in the order of the grid."""
    groups: dict[str, list[SweepPoint]] = {}
    for point in state.points:
        groups.setdefault(label(point.values), []).append(point)
    rows = []
    for points in groups.values():
        finished = [point for point in points if state.states[point.name].status == FINISHED]
        curves = [read_metrics(point.directory / "metrics.csv") for point in finished]
        validation = tuple(
            min(filter(math.isfinite, map(float, curve[VALIDATION][1])), default=math.inf)
            for curve in curves
            if VALIDATION in curve
        )
        results = [read_result(point.directory / RESULTS) for point in finished if point.result == RESULTS]
        test = tuple(result.metrics[TEST] for result in results if TEST in result.metrics)
        rows.append(GridRow(points[0].values, validation, test, len(points)))
    return rows


def best_row(rows: Sequence[GridRow]) -> GridRow | None:
    """The row with the lowest mean validation error, as the paper chooses (Appendices E and F)."""
    measured = [row for row in rows if row.validation]
    return min(measured, key=lambda row: statistics.fmean(row.validation), default=None)


def print_grid(rows: Sequence[GridRow], console: Console) -> None:
    """Print the table of a grid, and which values are best on the validation set."""
    console.print(UNIT, highlight=False)
    print_table(*_texts(rows), console, left=len(rows[0].values))
    if best := best_row(rows):
        console.print(f"*: best on the validation set: {listed(best.values)}", **_AS_IT_IS)
    if not all(row.complete for row in rows):
        console.print(MISSING, **_AS_IT_IS)


def write_grid(rows: Sequence[GridRow], output: Path) -> list[Path]:
    """Write the table as sweep.md and, with unrounded numbers, as sweep.csv."""
    numbers = [
        {
            **texts(row.values),
            **_moments("validation", row.validation),
            **_moments("test", row.test),
            "finished": len(row.validation),
            "runs": row.runs,
        }
        for row in rows
    ]
    notes = [UNIT.replace(" (meV)", " in meV") + "; *: best on the validation set"]
    return write_table(output, "sweep", *_texts(rows), notes, numbers)


def _texts(rows: Sequence[GridRow]) -> tuple[list[str], list[list[str]]]:
    """Head and lines of the table."""
    best = best_row(rows)
    lines = []
    for row in rows:
        mark = "*" if row is best else ""
        runs = f"{len(row.validation)}/{row.runs}"
        lines.append([*texts(row.values).values(), _mean(row.validation) + mark, _mean(row.test), runs])
    return [*rows[0].values, "validation", "test", "runs"], lines


def print_table(head: Sequence[str], lines: Sequence[Sequence[str]], console: Console, *, left: int) -> None:
    """Print a table; the text of the first ``left`` columns starts at the left."""
    table = Table(box=SIMPLE_HEAD)
    for i, name in enumerate(head):
        table.add_column(name, justify="left" if i < left else "right", no_wrap=True)
    for line in lines:
        table.add_row(*line)
    console.print(table)


def write_table(
    output: Path,
    name: str,
    head: Sequence[str],
    lines: Sequence[Sequence[str]],
    notes: Sequence[str],
    numbers: Sequence[Mapping[str, Any]],
) -> list[Path]:
    """Write a table as ``name``.md with notes below it, and its ``numbers``, one mapping a line, as ``name``.csv."""
    rows = [f"| {' | '.join(cells)} |" for cells in (head, *lines)]
    markdown = "\n".join([rows[0], "|" + "---|" * len(head), *rows[1:], "", *notes]) + "\n"
    text = io.StringIO()
    writer = csv.DictWriter(text, list(numbers[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(numbers)
    files = {output / f"{name}.md": markdown, output / f"{name}.csv": text.getvalue()}
    for path, content in files.items():
        with replacing(path) as draft:
            draft.write_text(content, encoding="utf-8")
    return list(files)


def texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Values for a table."""
    return {key: plain_text(value) for key, value in values.items()}


def listed(values: Mapping[str, Any]) -> str:
    """Values for a sentence."""
    return ", ".join(f"{key}={text}" for key, text in texts(values).items())


def print_states(state: SweepState, console: Console, *, everything: bool = False) -> None:
    """Print how many points are in which state, and a line for each that is not finished, or for every one."""
    counts = {name: len(state.with_state(name)) for name in (FINISHED, RUNNING, WAITING, STOPPED, FAILED)}
    summed = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    console.print(f"{len(state.points)} runs in {state.runs}: {summed}", **_AS_IT_IS)
    for point in state.points:
        status = state.states[point.name]
        if everything or status.status != FINISHED:
            line = f"  {point.name}: {status.status}"
            line += f", job {status.job}" if status.job else ""
            line += f", {status.attempts} tries" if status.attempts > 1 else ""
            line += f": {status.error}" if status.error else ""
            place = point.directory if everything else point.directory / LOG
            if everything or place.exists():
                line += f" ({place})"
            console.print(line, **_AS_IT_IS)


def missing_error(state: SweepState) -> str | None:
    """The error message about points that failed or were stopped; None if there are none."""
    failed = state.with_state(FAILED, STOPPED)
    if not failed:
        return None
    lines = [f"{point.name}: {state.states[point.name].error} ({point.directory / LOG})" for point in failed]
    return "\n  ".join(
        [f"{len(failed)} of {len(state.points)} runs failed; the same command goes on with them:", *lines]
    )


def _mean(values: Sequence[float]) -> str:
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.4g}"
    return f"{mean} ± {statistics.stdev(values):.2g}" if len(values) > 1 else mean


def _moments(name: str, values: Sequence[float]) -> dict[str, float | None]:
    """Mean and standard deviation; None where there are too few values."""
    mean = statistics.fmean(values) if values else None
    return {f"{name}_mean": mean, f"{name}_std": statistics.stdev(values) if len(values) > 1 else None}
