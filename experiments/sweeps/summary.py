"""What came out of a sweep: the points without a result, and the table of a grid."""

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.sweeps.manifest import SweepState
from experiments.sweeps.points import SweepPoint, label, plain_text
from experiments.sweeps.status import FAILED, FINISHED, LOG, RUNNING, STOPPED, WAITING
from tracegrad.reports.grid import MARK, Grid, GridCell, GridHead, GridLine
from tracegrad.reports.markdown import to_markdown
from tracegrad.reports.metrics_file import read_metrics
from tracegrad.reports.results import FILE as RESULTS
from tracegrad.reports.results import read_result
from tracegrad.reports.terminal import print_grids
from tracegrad.system.text_files import write_text

VALIDATION = "val/h_mae"
TEST = "test/h_mae"
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


def grid_table(rows: Sequence[GridRow]) -> Grid:
    """The table of a grid, with the values that are best on the validation set."""
    best = best_row(rows)
    lines = []
    for row in rows:
        runs = GridCell(f"{len(row.validation)}/{row.runs}")
        cells = (GridCell(_mean(row.validation), best=row is best), GridCell(_mean(row.test)), runs)
        lines.append(GridLine(", ".join(texts(row.values).values()), cells))
    captions = [f"{MARK}: best on the validation set: {listed(best.values)}"] if best else []
    if not all(row.complete for row in rows):
        captions.append(MISSING)
    return Grid(
        title="MAE^H_all",
        subtitle="meV, mean ± standard deviation over runs",
        first=", ".join(rows[0].values),
        heads=(GridHead("validation"), GridHead("test"), GridHead("runs")),
        lines=tuple(lines),
        captions=tuple(captions),
    )


def grid_numbers(rows: Sequence[GridRow]) -> list[dict[str, Any]]:
    """The unrounded numbers of the same table."""
    return [
        {
            **texts(row.values),
            **_moments("validation", row.validation),
            **_moments("test", row.test),
            "finished": len(row.validation),
            "runs": row.runs,
        }
        for row in rows
    ]


def show_table(
    grid: Grid, numbers: Sequence[Mapping[str, Any]], output: Path, name: str, console: Console
) -> None:
    """Print a table, and write it as ``name``.md and its numbers, one mapping a line, as ``name``.csv."""
    print_grids([grid], console)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(numbers[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(numbers)
    for ending, content in (("md", to_markdown([grid])), ("csv", text.getvalue())):
        write_text(output / f"{name}.{ending}", content)
    console.print(f"wrote {name}.md, {name}.csv into {output}", **_AS_IT_IS)


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
