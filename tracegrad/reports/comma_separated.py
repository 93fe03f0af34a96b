"""Tables as CSV (comma-separated values) for spreadsheets and pandas, with unrounded numbers.

Energies are in meV, changes in percent. Cells that do not exist are empty. The same tables as JSON, with the value
of every seed: `tracegrad.reports.structured`.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from tracegrad.reports.paired import LEVEL, ArmPair
from tracegrad.reports.paper import ComparedTable, source
from tracegrad.reports.table import HEAD, Cell, ResultsTable


def to_csv(tables: Sequence[ResultsTable]) -> str:
    """All rows of all tables, one line each.

    For each metric there are four columns: KEY (mean over seeds), KEY/std, KEY/change (percent) and KEY/best (0, 1).
    """
    columns = list(dict.fromkeys(column for table in tables for column in table.columns))
    names = [*HEAD, "arm", "label", "variant", "seeds", "repetitions", "steps", "train_seconds", "parameters"]
    for column in columns:
        names += [column.key, f"{column.key}/std", f"{column.key}/change", f"{column.key}/best"]
    lines = []
    for table in tables:
        for row in table.rows:
            values: dict[str, Any] = {name: getattr(table, name) for name in HEAD}
            values |= {"arm": row.arm, "label": row.label, "variant": row.variant}
            if row.runs:
                values |= {"train_seconds": row.seconds, "parameters": row.runs[0].parameters}
                values |= {"seeds": _joined(row.seeds), "steps": _joined(row.steps)}
                values["repetitions"] = _joined(run.repetition for run in row.runs)
            for column in columns:
                cell = row.cells.get(column.key)
                if cell is not None:
                    values[column.key] = cell.mean
                    values[f"{column.key}/std"] = cell.std
                    values[f"{column.key}/change"] = cell.change
                    values[f"{column.key}/best"] = int(cell.best)
            lines.append(values)
    return _csv(names, lines)


def paper_csv(compared: Sequence[ComparedTable]) -> str:
    """The tables of the paper, one line for each method and metric: our number and the paper's."""
    names = ["table", "database", "section", "method", "arm", "metric", "unit"]
    names += [f"{whose}{what}" for whose in ("ours", "paper") for what in ("", "_std", "_change")]
    names += ["seeds", "source"]
    lines = []
    for table in compared:
        for section in table.sections:
            for line in section.lines:
                method = {"table": table.paper.number, "database": section.database, "section": section.title}
                row = line.ours or line.paper
                method |= {"method": line.method, "arm": row.arm if row else ""}
                method["seeds"] = _joined(line.ours.seeds) if line.ours else ""
                for column in table.columns:
                    values = _numbers("ours", line.ours.cells.get(column.key) if line.ours else None)
                    values |= _numbers("paper", line.paper.cells.get(column.key) if line.paper else None)
                    if values:
                        lines.append(
                            {
                                **method,
                                **values,
                                "metric": column.key,
                                "unit": column.unit,
                                "source": source(),
                            }
                        )
    return _csv(names, lines)


def paired_csv(tables: Sequence[ResultsTable], pairs: Sequence[Sequence[ArmPair]]) -> str:
    """The differences between arms, one line for each pair of arms and metric."""
    names = [*HEAD, "first", "second", "metric", "unit", "difference", "low", "high"]
    names += ["level", "over", "seeds", "samples", "finding"]
    lines = []
    for table, table_pairs in zip(tables, pairs, strict=True):
        for pair in table_pairs:
            for key, difference in pair.differences.items():
                values: dict[str, Any] = {name: getattr(table, name) for name in HEAD}
                values |= {"first": pair.first.name, "second": pair.second.name, "metric": key}
                values |= {"difference": difference.interval.mean, "level": LEVEL}
                values |= {"low": difference.interval.low, "high": difference.interval.high}
                values |= {"unit": difference.column.unit, "over": difference.over}
                values |= {"seeds": difference.seeds, "samples": difference.samples}
                lines.append({**values, "finding": difference.finding})
    return _csv(names, lines)


def _numbers(whose: str, cell: Cell | None) -> dict[str, float | None]:
    if cell is None:
        return {}
    return {whose: cell.mean, f"{whose}_std": cell.std, f"{whose}_change": cell.change}


def _joined(values: Iterable[int]) -> str:
    return " ".join(map(str, values))


def _csv(names: Sequence[str], lines: Iterable[dict[str, Any]]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()
