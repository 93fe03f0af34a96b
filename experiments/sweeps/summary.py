"""What came out of a sweep: the points that are missing, and the table of a grid."""

import csv
import io
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from experiments.sweeps.manifest import Manifest
from experiments.sweeps.points import Point, plain_text
from experiments.sweeps.status import FAILED, FINISHED, LOG, RUNNING, STOPPED, WAITING
from tracegrad.plots.learning_curves import read_metrics
from tracegrad.reports.results import FILE as RESULTS
from tracegrad.reports.results import read_result
from tracegrad.system.whole_files import replacing

VALIDATION = "val/h_mae"
TEST = "test/h_mae"


@dataclass(frozen=True)
class GridRow:
    """One combination of values: MAE^H_all in meV of its finished runs, the best validation and the test."""

    values: dict[str, Any]
    validation: tuple[float, ...]
    test: tuple[float, ...]
    runs: int

    @property
    def complete(self) -> bool:
        """Whether all of its runs are there."""
        return len(self.validation) == self.runs


def grid_rows(manifest: Manifest) -> list[GridRow]:
    """A row for each combination, in the order of the grid."""
    groups: dict[str, list[Point]] = {}
    for point in manifest.points:
        groups.setdefault(str(sorted(point.values.items())), []).append(point)
    rows = []
    for members in groups.values():
        finished = [point for point in members if manifest.states[point.name].status == FINISHED]
        curves = [read_metrics(point.directory / "metrics.csv") for point in finished]
        validation = [_lowest(curve[VALIDATION][1]) for curve in curves if VALIDATION in curve]
        results = [read_result(point.directory / RESULTS) for point in finished if point.result == RESULTS]
        test = [result.metrics[TEST] for result in results if TEST in result.metrics]
        rows.append(GridRow(dict(members[0].values), tuple(validation), tuple(test), len(members)))
    return rows


def best_row(rows: Sequence[GridRow]) -> GridRow | None:
    """The row with the lowest mean validation error, as the paper chooses (Appendices E and F)."""
    measured = [row for row in rows if row.validation]
    return min(measured, key=lambda row: statistics.fmean(row.validation), default=None)


def print_grid(rows: Sequence[GridRow], console: Console) -> None:
    """The table of a grid, and which values are best on the validation set."""
    table = Table(box=SIMPLE_HEAD)
    console.print("MAE^H_all (meV), mean ± standard deviation over runs", highlight=False)
    best = best_row(rows)
    for key in rows[0].values:
        table.add_column(key)
    for name in ("validation", "test", "runs"):
        table.add_column(name, justify="right")
    for row in rows:
        mark = "*" if row is best else ""
        runs = f"{len(row.validation)}/{row.runs}"
        table.add_row(
            *map(plain_text, row.values.values()), _mean(row.validation) + mark, _mean(row.test), runs
        )
    console.print(table)
    if best is not None:
        chosen = ", ".join(f"{key}={plain_text(value)}" for key, value in best.values.items())
        console.print(f"*: best on the validation set: {chosen}", markup=False, highlight=False)
    if not all(row.complete for row in rows):
        console.print("runs are missing: the choice is for those that are there", highlight=False)


def write_grid(rows: Sequence[GridRow], output: Path) -> list[Path]:
    """The table as sweep.md and sweep.csv."""
    keys = list(rows[0].values)
    head = [*keys, "validation", "test", "runs"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    numbers = ("validation_mean", "validation_std", "test_mean", "test_std", "finished", "runs")
    writer.writerow([*keys, *numbers])
    best = best_row(rows)
    for row in rows:
        values = [plain_text(value) for value in row.values.values()]
        mark = "*" if row is best else ""
        cells = [_mean(row.validation) + mark, _mean(row.test), f"{len(row.validation)}/{row.runs}"]
        lines.append("| " + " | ".join([*values, *cells]) + " |")
        moments = [*_moments(row.validation), *_moments(row.test)]
        writer.writerow([*values, *moments, len(row.validation), row.runs])
    lines += ["", "MAE^H_all in meV, mean ± standard deviation over runs; *: best on the validation set"]
    files = {"sweep.md": "\n".join(lines) + "\n", "sweep.csv": text.getvalue()}
    for name, content in files.items():
        with replacing(output / name) as draft:
            draft.write_text(content, encoding="utf-8")
    return [output / name for name in files]


def print_states(manifest: Manifest, console: Console, *, everything: bool = False) -> None:
    """How many points are in which state, and a line for each that is not finished; or for every one."""
    counts = {
        state: len(manifest.with_state(state)) for state in (FINISHED, RUNNING, WAITING, STOPPED, FAILED)
    }
    said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    console.print(f"{len(manifest.points)} runs in {manifest.runs}: {said}", highlight=False, soft_wrap=True)
    for point in manifest.points:
        state = manifest.states[point.name]
        if everything or state.status != FINISHED:
            line = f"  {point.name}: {state.status}"
            line += f", job {state.job}" if state.job else ""
            line += f", {state.attempts} tries" if state.attempts > 1 else ""
            line += f": {state.error}" if state.error else ""
            place = point.directory if everything else point.directory / LOG
            if everything or place.exists():
                line += f" ({place})"
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def missing_error(manifest: Manifest) -> str | None:
    """What to say of points that failed or were stopped; None if there are none."""
    failed = manifest.with_state(FAILED, STOPPED)
    if not failed:
        return None
    lines = "\n  ".join(
        f"{point.name}: {manifest.states[point.name].error} ({point.directory / LOG})" for point in failed
    )
    return (
        f"{len(failed)} of {len(manifest.points)} runs failed; the same command goes on with them:\n  {lines}"
    )


def _lowest(values: Float[np.ndarray, " validations"]) -> float:
    """The lowest finite error; infinite for a run that has diverged before its first validation."""
    return float(min(values[np.isfinite(values)], default=math.inf))


def _mean(values: Sequence[float]) -> str:
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.4g}"
    return f"{mean} ± {statistics.stdev(values):.2g}" if len(values) > 1 else mean


def _moments(values: Sequence[float]) -> list[str]:
    mean = repr(statistics.fmean(values)) if values else ""
    return [mean, repr(statistics.stdev(values)) if len(values) > 1 else ""]
