"""Tables as JSON, with everything that they hold: the value of every seed, intervals, footnotes and notes.

Numbers that are not finite become null, because JSON has no NaN. The same tables as flat rows for spreadsheets:
`tracegrad.reports.comma_separated` (CSV).
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tracegrad.reports.challenge import DEFINITION, SubsetChallenge
from tracegrad.reports.paired import LEVEL, METHOD, ArmPair
from tracegrad.reports.paper import ComparedMethod, ComparedTable, source
from tracegrad.reports.table import HEAD, Cell, ResultsTable

FORMAT = 1


def to_json(
    tables: Sequence[ResultsTable],
    directory: str | Path | None = None,
    pairs: Sequence[Sequence[ArmPair]] | None = None,
    compared: Sequence[ComparedTable] = (),
    absent: Sequence[str] = (),
) -> str:
    """A JSON document of all tables of a report.

    Args:
        tables: tables of the runs.
        directory: the paths of runs are written relative to it; None keeps them as they are.
        pairs: for each table the differences between its arms.
        compared: tables of the paper with our numbers.
        absent: lines on the items of the paper that the report lacks.
    """
    content = {
        "format": FORMAT,
        "tables": [
            {**_table(table, directory), "differences": [_pair(pair) for pair in table_pairs]}
            for table, table_pairs in zip(tables, pairs or [[]] * len(tables), strict=True)
        ],
        "differences": {"level": LEVEL, "method": METHOD},
        "paper": {"source": source(), "tables": [_compared(table) for table in compared], "absent": absent},
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def challenge_json(tables: Sequence[ResultsTable], directory: str | Path | None = None) -> str:
    """A JSON document of the samples and blocks of MAE_cha, and of the runs that chose them.

    The paths of these runs are written relative to ``directory``.
    """
    challenges = [
        {
            **{name: getattr(table, name) for name in HEAD},
            "baseline": _relative(table.challenge.baseline, directory),
            "k": table.challenge.worst,
            "subsets": [_challenge(part) for part in table.challenge.subsets],
        }
        for table in tables
        if table.challenge is not None
    ]
    content = {"format": FORMAT, "definition": DEFINITION, "unit": "meV", "challenges": challenges}
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _table(table: ResultsTable, directory: str | Path | None) -> dict[str, Any]:
    return {
        **{name: getattr(table, name) for name in (*HEAD, "crystal", "counts")},
        "columns": [vars(column) for column in table.columns],
        "rows": [
            {
                "arm": row.arm,
                "label": row.label,
                "variant": row.variant,
                "seeds": row.seeds,
                "repetitions": [run.repetition for run in row.runs],
                "steps": row.steps,
                "train_seconds": row.seconds,
                "parameters": row.runs[0].parameters if row.runs else None,
                "runs": [_relative(run.directory, directory) for run in row.runs],
                "metrics": {key: _cell(cell) for key, cell in row.cells.items()},
            }
            for row in table.rows
        ],
        "footnotes": table.footnotes,
        "notes": table.notes,
    }


def _cell(cell: Cell) -> dict[str, Any]:
    return {
        "mean": _finite(cell.mean),
        "std": _finite(cell.std),
        "change": _finite(cell.change),
        "best": cell.best,
        "values": [_finite(value) for value in cell.values],
    }


def _pair(pair: ArmPair) -> dict[str, Any]:
    metrics = {
        key: {
            "difference": _finite(difference.interval.mean),
            "low": _finite(difference.interval.low),
            "high": _finite(difference.interval.high),
            "over": difference.over,
            "seeds": difference.seeds,
            "samples": difference.samples,
            "finding": difference.finding,
        }
        for key, difference in pair.differences.items()
    }
    return {"first": pair.first.name, "second": pair.second.name, "metrics": metrics}


def _compared(table: ComparedTable) -> dict[str, Any]:
    return {
        "table": table.paper.number,
        "caption": table.paper.caption,
        "sections": [
            {
                "database": section.database,
                "title": section.title,
                "lines": [_line(line) for line in section.lines],
            }
            for section in table.sections
        ],
        "notes": table.notes,
    }


def _line(line: ComparedMethod) -> dict[str, Any]:
    rows = {"ours": line.ours, "paper": line.paper}
    metrics = {
        whose: {key: _cell(cell) for key, cell in row.cells.items()} if row is not None else None
        for whose, row in rows.items()
    }
    return {"method": line.method, **metrics}


def _challenge(part: SubsetChallenge) -> dict[str, Any]:
    samples = [
        {"row": entry.sample.row, "name": entry.sample.name, "h_mae": entry.h_mae} for entry in part.samples
    ]
    return {"subset": part.subset, "samples": samples, "block": part.block, "block_mae": part.block_mae}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _relative(path: Path, directory: str | Path | None) -> str:
    if directory is None or not path.is_relative_to(directory):
        return str(path)
    return str(path.relative_to(directory))
