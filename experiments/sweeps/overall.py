"""The values of a grid that are best over several databases, judged on their validation sets.

The paper chooses one lambda "based on the overall performance on the validation sets" of its six databases of
crystals, and one of its two of molecules (Appendices E and F), and does not say how it weighs them. Here each
database counts by ratios, because their errors differ in size: overall is the geometric mean over databases of the
validation MAE^H_all divided by the lowest of that database. 1 means best everywhere, 1.05 five percent above.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.sweeps.points import label
from experiments.sweeps.summary import GridRow, listed, texts
from tracegrad.reports.grid import MARK, Grid, GridCell, GridHead, GridLine


@dataclass(frozen=True)
class OverallRow:
    """One combination of values.

    Attributes:
        values: of the keys of the grid.
        validation: by database, the mean over runs of the lowest validation MAE^H_all (meV); None without a run.
        ratios: the same divided by the lowest of the database; None without a run or a finite lowest error.
        overall: geometric mean of the ratios; None where a database has none.
    """

    values: Mapping[str, Any]
    validation: dict[str, float | None]
    ratios: dict[str, float | None]
    overall: float | None


def overall(grids: Mapping[str, Sequence[GridRow]]) -> list[OverallRow]:
    """The rows of all databases together; ``grids`` holds those of each database, which have the same values."""
    means = {
        name: {
            label(row.values): statistics.fmean(row.validation) if row.validation else None for row in rows
        }
        for name, rows in grids.items()
    }
    lowest = {
        name: min((mean for mean in column.values() if mean is not None), default=math.inf)
        for name, column in means.items()
    }
    result = []
    for row in next(iter(grids.values())):
        validation = {name: column[label(row.values)] for name, column in means.items()}
        # A database whose runs all diverged has no finite lowest error, and decides nothing.
        ratios = {
            name: None if mean is None or math.isinf(lowest[name]) else mean / lowest[name]
            for name, mean in validation.items()
        }
        known = [ratio for ratio in ratios.values() if ratio is not None]
        mean_ratio = statistics.geometric_mean(known) if len(known) == len(ratios) else None
        result.append(OverallRow(row.values, validation, ratios, mean_ratio))
    return result


def unfinished(grids: Mapping[str, Sequence[GridRow]]) -> list[str]:
    """A line for each combination of each database with runs that have no result."""
    return [
        f"{name}: {listed(row.values)}: {len(row.validation)} of {row.runs} runs finished"
        for name, rows in grids.items()
        for row in rows
        if not row.complete
    ]


def chosen(rows: Sequence[OverallRow], missing: Sequence[str]) -> OverallRow | None:
    """The row with the lowest overall error; None as long as runs are missing or a database has no finite error."""
    errors = [row.overall for row in rows if row.overall is not None]
    return None if missing or len(errors) < len(rows) else rows[errors.index(min(errors))]


def overall_table(rows: Sequence[OverallRow], missing: Sequence[str]) -> Grid:
    """The table of all databases, and the choice or why there is none."""
    best = chosen(rows, missing)
    lines = []
    for row in rows:
        cells = [GridCell(_errors(row.validation[name], row.ratios[name])) for name in row.validation]
        mean_ratio = "-" if row.overall is None else f"{row.overall:.4f}"
        cells.append(GridCell(mean_ratio, best=row is best))
        lines.append(GridLine(", ".join(texts(row.values).values()), tuple(cells)))
    if best is not None:
        captions = [f"{MARK}: the choice for all databases: {listed(best.values)}"]
    elif missing:
        captions = ["no choice yet: runs are missing; the same command goes on with them", *missing]
    else:
        captions = ["no choice: no run of a database has a finite validation error"]
    return Grid(
        title="validation MAE^H_all",
        subtitle="meV, divided by the lowest of its column in brackets; overall: geometric mean of these ratios",
        first=", ".join(rows[0].values),
        heads=tuple(map(GridHead, [*rows[0].validation, "overall"])),
        lines=tuple(lines),
        captions=tuple(captions),
    )


def overall_numbers(rows: Sequence[OverallRow], missing: Sequence[str]) -> list[dict[str, Any]]:
    """The unrounded numbers of the same table."""
    best = chosen(rows, missing)
    return [
        {
            **texts(row.values),
            **row.validation,
            **{f"{name}/ratio": ratio for name, ratio in row.ratios.items()},
            "overall": row.overall,
            "chosen": int(row is best),
        }
        for row in rows
    ]


def _errors(mean: float | None, ratio: float | None) -> str:
    if mean is None:
        return "-"
    return f"{mean:.4g}" + ("" if ratio is None else f" ({ratio:.3f})")
