"""Tables as plain data and as JSON, with everything that they hold: the value of every seed, intervals and notes.

Numbers that are not finite become null, because JSON has no NaN. The same tables as flat rows for spreadsheets:
`tracegrad.reports.comma_separated` (CSV).
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tracegrad.reports.challenge import DEFINITION, SubsetChallenge
from tracegrad.reports.paired import LEVEL, METHOD, ArmPair, Difference
from tracegrad.reports.paper import ComparedTable, PaperRow, source
from tracegrad.reports.table import ResultsTable, Row

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
        directory: the paths of runs are written relative to it; None keeps them as they are.
    """
    content = {
        "tables": [
            {**_table(table), "differences": [_pair(pair) for pair in table_pairs]}
            for table, table_pairs in zip(tables, pairs or [[]] * len(tables), strict=True)
        ],
        "differences": {"level": LEVEL, "method": METHOD},
        "paper": {"source": source(), "tables": [_compared(table) for table in compared], "absent": absent},
    }
    return _json(content, directory)


def challenge_json(tables: Sequence[ResultsTable], directory: str | Path | None = None) -> str:
    """A JSON document of the samples and blocks of MAE_cha, and of the runs that chose them.

    The paths of these runs are written relative to ``directory``.
    """
    challenges = [
        {
            **table.head,
            "baseline": table.challenge.baseline,
            "k": table.challenge.worst,
            "subsets": [_challenge(part) for part in table.challenge.subsets],
        }
        for table in tables
        if table.challenge is not None
    ]
    return _json({"definition": DEFINITION, "unit": "meV", "challenges": challenges}, directory)


def row_values(row: Row) -> dict[str, Any]:
    """A row as plain data; ``metrics`` has the cells by the key of their column."""
    return {
        "arm": row.arm,
        "label": row.label,
        "variant": row.variant,
        "seeds": row.seeds,
        "repetitions": [run.repetition for run in row.runs],
        "steps": row.steps,
        "train_seconds": row.seconds,
        "parameters": row.runs[0].parameters if row.runs else None,
        "runs": [run.directory for run in row.runs],
        "metrics": _cells(row),
    }


def difference_values(difference: Difference) -> dict[str, Any]:
    """A difference between two arms as plain data."""
    return {
        "difference": difference.interval.mean,
        "low": difference.interval.low,
        "high": difference.interval.high,
        "level": LEVEL,
        "over": difference.over,
        "seeds": difference.seeds,
        "samples": difference.samples,
        "finding": difference.finding,
    }


def _table(table: ResultsTable) -> dict[str, Any]:
    return {
        **table.head,
        "crystal": table.crystal,
        "counts": table.counts,
        "columns": [asdict(column) for column in table.columns],
        "rows": [row_values(row) for row in table.rows],
        "footnotes": table.footnotes,
        "notes": table.notes,
    }


def _cells(row: Row | PaperRow | None) -> dict[str, dict[str, Any]] | None:
    return {key: asdict(cell) for key, cell in row.cells.items()} if row else None


def _pair(pair: ArmPair) -> dict[str, Any]:
    metrics = {key: difference_values(difference) for key, difference in pair.differences.items()}
    return {"first": pair.first.name, "second": pair.second.name, "metrics": metrics}


def _compared(table: ComparedTable) -> dict[str, Any]:
    sections = [
        {
            "database": section.database,
            "title": section.title,
            "lines": [
                {"method": line.method, "ours": _cells(line.ours), "paper": _cells(line.paper)}
                for line in section.lines
            ],
        }
        for section in table.sections
    ]
    return {
        "table": table.paper.number,
        "caption": table.paper.caption,
        "sections": sections,
        "notes": table.notes,
    }


def _challenge(part: SubsetChallenge) -> dict[str, Any]:
    samples = [
        {"row": entry.sample.row, "name": entry.sample.name, "h_mae": entry.h_mae} for entry in part.samples
    ]
    return {"subset": part.subset, "samples": samples, "block": part.block, "block_mae": part.block_mae}


def _json(content: dict[str, Any], directory: str | Path | None) -> str:
    plain = _plain({"format": FORMAT, **content}, directory)
    return json.dumps(plain, indent=2, allow_nan=False) + "\n"


def _plain(value: Any, directory: str | Path | None) -> Any:
    """The value with null in place of numbers that are not finite, and paths relative to ``directory``."""
    if isinstance(value, dict):
        return {key: _plain(entry, directory) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry, directory) for entry in value]
    if isinstance(value, Path):
        inside = directory is not None and value.is_relative_to(directory)
        return str(value.relative_to(directory) if inside and directory else value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
