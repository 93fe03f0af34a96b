"""The values of a grid that are best over several databases, judged on their validation sets.

The paper chooses one lambda "based on the overall performance on the validation sets" of its six databases of
crystals, and one of its two of molecules (Appendices E and F), and does not say how it weighs them. Here each
database counts by ratios, because their errors differ in size: overall is the geometric mean over databases of the
validation MAE^H_all divided by the lowest of that database. 1 means best everywhere, 1.05 five percent above.
"""

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

from experiments.sweeps.points import plain_text
from experiments.sweeps.summary import GridRow
from tracegrad.errors import ConfigError
from tracegrad.system.whole_files import replacing

RULE = (
    "validation MAE^H_all in meV (divided by the lowest of its column); "
    "overall: geometric mean over databases of these ratios"
)


@dataclass(frozen=True)
class OverallRow:
    """One combination of values.

    Attributes:
        values: of the keys of the grid.
        validation: mean over runs of the best validation MAE^H_all (meV) by database; none without a run.
        ratios: the same divided by the lowest of the database.
        overall: geometric mean of the ratios; None where a database has none.
    """

    values: dict[str, Any]
    validation: dict[str, float]
    ratios: dict[str, float]
    overall: float | None


def overall(grids: Mapping[str, Sequence[GridRow]]) -> list[OverallRow]:
    """The rows of all databases together.

    Args:
        grids: rows of each database.

    Raises:
        ConfigError: the grids differ.
    """
    named = {name: {_key(row): row for row in rows} for name, rows in grids.items()}
    first = next(iter(named.values()))
    for name, rows in named.items():
        if rows.keys() != first.keys():
            raise ConfigError(
                f"the grid of {name} has other values than that of {next(iter(named))}; give the same"
            )
    means = {
        name: {key: statistics.fmean(row.validation) for key, row in rows.items() if row.validation}
        for name, rows in named.items()
    }
    lowest = {name: min(found.values(), default=math.inf) for name, found in means.items()}
    made = []
    for key, row in first.items():
        validation = {name: found[key] for name, found in means.items() if key in found}
        # A database whose runs all diverged has no lowest error, and tells nothing.
        ratios = {
            name: value / lowest[name] for name, value in validation.items() if math.isfinite(lowest[name])
        }
        mean = statistics.geometric_mean(ratios.values()) if len(ratios) == len(grids) else None
        made.append(OverallRow(dict(row.values), validation, ratios, mean))
    return made


def unfinished(grids: Mapping[str, Sequence[GridRow]]) -> list[str]:
    """A line for each combination of each database with runs that have no result; without any the choice is made."""
    return [
        f"{name}: {named(row.values)}: {len(row.validation)} of {row.runs} runs finished"
        for name, rows in grids.items()
        for row in rows
        if not row.complete
    ]


def chosen(rows: Sequence[OverallRow], missing: Sequence[str]) -> OverallRow | None:
    """The row with the lowest overall error; none as long as runs are missing or a database has no finite error."""
    known = [row for row in rows if row.overall is not None]
    return None if missing or len(known) < len(rows) else min(known, key=_overall)


def named(values: Mapping[str, Any]) -> str:
    """Values for people."""
    return ", ".join(f"{key}={plain_text(value)}" for key, value in values.items())


def print_overall(
    rows: Sequence[OverallRow], databases: Sequence[str], missing: Sequence[str], console: Console
) -> None:
    """The table of all databases, and the choice or why there is none."""
    table = Table(box=SIMPLE_HEAD)
    for name in rows[0].values:
        table.add_column(name)
    for name in (*databases, "overall"):
        table.add_column(name, justify="right", no_wrap=True)
    for line in _cells(rows, databases, missing):
        table.add_row(*line)
    console.print(table)
    for text in (RULE, *_conclusion(rows, missing)):
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def write_overall(
    rows: Sequence[OverallRow], databases: Sequence[str], missing: Sequence[str], output: Path
) -> list[Path]:
    """The table as overall.md and overall.csv."""
    head = [*rows[0].values, *databases, "overall"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(cells) + " |" for cells in _cells(rows, databases, missing)]
    lines += ["", RULE, *(f"\n{text}" for text in _conclusion(rows, missing))]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [*rows[0].values, *databases, *(f"{name}/ratio" for name in databases), "overall", "chosen"]
    )
    best = chosen(rows, missing)
    for row in rows:
        values = [plain_text(value) for value in row.values.values()]
        for numbers in (row.validation, row.ratios):
            values += [repr(numbers[name]) if name in numbers else "" for name in databases]
        writer.writerow([*values, "" if row.overall is None else repr(row.overall), int(row is best)])
    files = {"overall.md": "\n".join(lines) + "\n", "overall.csv": text.getvalue()}
    for name, content in files.items():
        with replacing(output / name) as draft:
            draft.write_text(content, encoding="utf-8")
    return [output / name for name in files]


def _conclusion(rows: Sequence[OverallRow], missing: Sequence[str]) -> list[str]:
    best = chosen(rows, missing)
    if best is not None:
        return [f"*: the choice for all databases: {named(best.values)}"]
    if missing:
        return ["no choice yet: runs are missing; the same command goes on with them", *missing]
    return ["no choice: no run of a database has a finite validation error"]


def _cells(rows: Sequence[OverallRow], databases: Sequence[str], missing: Sequence[str]) -> list[list[str]]:
    best = chosen(rows, missing)
    lines = []
    for row in rows:
        cells = [
            f"{row.validation[name]:.4g}" + (f" ({row.ratios[name]:.3f})" if name in row.ratios else "")
            if name in row.validation
            else "-"
            for name in databases
        ]
        mean = "-" if row.overall is None else f"{row.overall:.4f}" + ("*" if row is best else "")
        lines.append([*(plain_text(value) for value in row.values.values()), *cells, mean])
    return lines


def _key(row: GridRow) -> str:
    return str(sorted(row.values.items()))


def _overall(row: OverallRow) -> float:
    assert row.overall is not None
    return row.overall
