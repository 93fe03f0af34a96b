"""Tables of results as text: for the terminal, Markdown, CSV and JSON.

tables = results_table(collect_results("runs"))
print_tables(tables)
"""

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tracegrad.challenge import DEFINITION, SubsetChallenge
from tracegrad.comparison import BASELINE, TRIVIAL, Cell, Column, ResultsTable, Row, results_table
from tracegrad.results import ResultsError, RunResult, collect_results

__all__ = [
    "ResultsError",
    "ResultsTable",
    "RunResult",
    "challenge_json",
    "collect_results",
    "print_tables",
    "results_table",
    "to_csv",
    "to_json",
    "to_markdown",
]

FORMAT = 1
# Fields of a table that say what it is about.
_HEAD = (
    "experiment",
    "database",
    "database_label",
    "split",
    "split_hash",
    "backbone",
    "checkpoint",
    "part",
)
# Wide enough for every table, so that its natural width can be measured.
_UNLIMITED = 10_000


def print_tables(tables: Sequence[ResultsTable], console: Console | None = None) -> None:
    """Print every table with its heading and notes.

    Lines are as long as their content needs, also where the output is narrower or no terminal: a label that
    is cut off or wrapped cannot be searched for.
    """
    console = console or Console()
    wide = _unlimited(console)
    for table in tables:
        heading = f"{table.title} ({table.database}, {table.backbone}, {table.experiment})"
        console.print(Text(_printable(heading, console), style="bold"), soft_wrap=True)
        wide.print(_rich_table(table, console), crop=False)
        for line in _captions(table, "*"):
            console.print(Text(_printable(line, console), style="dim"), soft_wrap=True)
        console.print()


def _unlimited(console: Console) -> Console:
    """The same output without a limit on the length of lines."""
    return Console(
        file=console.file,
        width=_UNLIMITED,
        force_terminal=console.is_terminal,
        color_system=console.color_system,  # type: ignore[arg-type]
    )


def to_markdown(tables: Sequence[ResultsTable]) -> str:
    """Every table under its own heading, the best value of a column in bold."""
    parts = []
    for table in tables:
        rows = [_cells(table, row, "**{}**", " ") for row in table.rows]
        lines = [_markdown_row(_header(table)), "| --- " + "| ---: " * (len(_header(table)) - 1) + "|"]
        lines += [_markdown_row(row) for row in rows]
        captions = "\n".join(f"- {line}" for line in _captions(table, "bold"))
        heading = f"## {table.title}\n\n{table.database}, {table.backbone}, {table.experiment}"
        parts.append(f"{heading}\n\n" + "\n".join(lines) + f"\n\n{captions}\n")
    return "\n".join(parts)


def to_csv(tables: Sequence[ResultsTable]) -> str:
    """One line a row of a table with unrounded numbers; energies in meV, changes in percent."""
    columns = list(dict.fromkeys(column for table in tables for column in table.columns))
    names = [*_HEAD, "arm", "label", "seeds", "steps", "train_seconds", "parameters"]
    for column in columns:
        names += [column.key, f"{column.key}/std", f"{column.key}/change", f"{column.key}/best"]
    file = io.StringIO()
    writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
    writer.writeheader()
    for table in tables:
        for row in table.rows:
            values: dict[str, Any] = {name: getattr(table, name) for name in _HEAD}
            values |= {"arm": row.arm, "label": row.label}
            if row.runs:
                values |= {"train_seconds": row.seconds, "parameters": row.runs[0].parameters}
                values |= {"seeds": " ".join(map(str, row.seeds)), "steps": " ".join(map(str, row.steps))}
            for column in columns:
                cell = row.cells.get(column.key)
                if cell is not None:
                    values[column.key] = cell.mean
                    values[f"{column.key}/std"] = cell.std
                    values[f"{column.key}/change"] = cell.change
                    values[f"{column.key}/best"] = int(cell.best)
            writer.writerow(values)
    return file.getvalue()


def to_json(tables: Sequence[ResultsTable], directory: str | Path | None = None) -> str:
    """Everything the tables hold, with every seed's value; runs are named relative to ``directory``.

    Numbers that are not finite become null, which every reader of JSON understands.
    """
    content = {"format": FORMAT, "tables": [_json_table(table, directory) for table in tables]}
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def challenge_json(tables: Sequence[ResultsTable], directory: str | Path | None = None) -> str:
    """The samples and blocks behind MAE_cha, and the runs they come from, named relative to ``directory``."""
    challenges = [
        {
            **{name: getattr(table, name) for name in _HEAD},
            "baseline": _relative(table.challenge.baseline, directory),
            "k": table.challenge.worst,
            "subsets": [_json_challenge(part) for part in table.challenge.subsets],
        }
        for table in tables
        if table.challenge is not None
    ]
    content = {"format": FORMAT, "definition": DEFINITION, "unit": "meV", "challenges": challenges}
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _rich_table(table: ResultsTable, console: Console | None = None) -> Table:
    grid = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for i, name in enumerate(_header(table)):
        # The unit goes into a second line of the header to keep lines short.
        grid.add_column(Text(name.replace(" (", "\n(", 1)), justify="right" if i else "left", no_wrap=True)
    for row in table.rows:
        texts = _cells(table, row, "{}*", "\n")
        best = [False] + [
            row.cells[column.key].best if column.key in row.cells else False for column in table.columns
        ]
        best += [False] * (len(texts) - len(best))
        grid.add_row(
            *(
                Text(_printable(text, console), style="bold green" if mark else "")
                for text, mark in zip(texts, best, strict=True)
            ),
            style="dim" if row.arm == TRIVIAL else "",
        )
    return grid


def _header(table: ResultsTable) -> list[str]:
    names = [f"{column.name} ({column.unit})" if column.unit else column.name for column in table.columns]
    return ["method", *names, "seeds", "steps", "time (s)"]


def _cells(table: ResultsTable, row: Row, best: str, break_: str) -> list[str]:
    cells = [_cell(row.cells.get(column.key), column, best, break_) for column in table.columns]
    seeds = ", ".join(map(str, row.seeds))
    seconds = f"{row.seconds:.1f}" if row.seconds is not None else ""
    return [row.label, *cells, seeds, _range(row.steps), seconds]


def _cell(cell: Cell | None, column: Column, best: str, break_: str) -> str:
    if cell is None:
        return "-"
    text = f"{cell.mean:.3f}" + (f" ± {cell.std:.3f}" if cell.std is not None else "")
    if cell.best:
        text = best.format(text)
    return text + (f"{break_}({cell.change:+.1f} %)" if cell.change is not None else "")


def _captions(table: ResultsTable, mark: str) -> list[str]:
    counts = ", ".join(f"{count} {part}" for part, count in table.counts.items())
    data = f"{table.part} set, {table.checkpoint} checkpoint; {table.samples}: {counts}; split {table.split_hash}"
    if sum(len(row.runs) for row in table.arms) == 1:
        return [data, *table.footnotes]  # the rest explains how runs compare
    spread = any(cell.std is not None for row in table.rows for cell in row.cells.values())
    numbers = ["mean ± sample standard deviation over seeds" if spread else "value of the seed"]
    baseline = next((row.label for row in table.arms if row.arm == BASELINE), None)
    if baseline is not None and len(table.arms) > 1:
        numbers.append(f"(change against {baseline})")
    if any(cell.best for row in table.rows for cell in row.cells.values()):
        numbers.append(f"{mark}: best")
    lines = [data, "; ".join(numbers)]
    if not all(column.lower_is_better for column in table.columns):
        lines.append("MAE: lower is better; Sim(psi): higher is better")
    return [*lines, *table.footnotes, *table.notes]


def _range(values: tuple[int, ...]) -> str:
    if not values:
        return ""
    low, high = min(values), max(values)
    return f"{low}" if low == high else f"{low}-{high}"


def _printable(text: str, console: Console | None) -> str:
    """The text in what the output can encode, such as ASCII under LC_ALL=C."""
    if console is None or console.encoding.lower().startswith("utf"):
        return text
    return text.replace("±", "+-").encode(console.encoding, "replace").decode(console.encoding)


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _json_table(table: ResultsTable, directory: str | Path | None) -> dict[str, Any]:
    return {
        **{name: getattr(table, name) for name in (*_HEAD, "crystal", "counts")},
        "columns": [vars(column) for column in table.columns],
        "rows": [
            {
                "arm": row.arm,
                "label": row.label,
                "seeds": row.seeds,
                "steps": row.steps,
                "train_seconds": row.seconds,
                "parameters": row.runs[0].parameters if row.runs else None,
                "runs": [_relative(run.directory, directory) for run in row.runs],
                "metrics": {key: _json_cell(cell) for key, cell in row.cells.items()},
            }
            for row in table.rows
        ],
        "footnotes": table.footnotes,
        "notes": table.notes,
    }


def _json_cell(cell: Cell) -> dict[str, Any]:
    return {
        "mean": _finite(cell.mean),
        "std": _finite(cell.std),
        "change": _finite(cell.change),
        "best": cell.best,
        "values": [_finite(value) for value in cell.values],
    }


def _json_challenge(part: SubsetChallenge) -> dict[str, Any]:
    samples = [{"row": s.row, "name": s.name, "h_mae": s.h_mae} for s in part.samples]
    return {"subset": part.subset, "samples": samples, "block": part.block, "block_mae": part.block_mae}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _relative(path: Path, directory: str | Path | None) -> str:
    if directory is None or not path.is_relative_to(directory):
        return str(path)
    return str(path.relative_to(directory))
