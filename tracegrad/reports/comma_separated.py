"""Tables as CSV, with unrounded numbers; energies in meV, changes in percent."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from tracegrad.reports.paired import LEVEL, ArmPair
from tracegrad.reports.paper import ComparedTable, source
from tracegrad.reports.table import HEAD, Cell, ResultsTable


def to_csv(tables: Sequence[ResultsTable]) -> str:
    """One line a row of a table."""
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
    return _written(names, lines)


def paper_csv(compared: Sequence[ComparedTable]) -> str:
    """One line for each number of the paper's tables, ours beside the paper's."""
    names = ["table", "database", "section", "method", "arm", "metric", "unit"]
    names += [f"{whose}{what}" for whose in ("ours", "paper") for what in ("", "_std", "_change")]
    names += ["seeds", "source"]
    lines = []
    for table in compared:
        for section in table.sections:
            for line in section.lines:
                own = {"table": table.paper.number, "database": section.database, "section": section.title}
                some = line.ours or line.paper
                own |= {"method": line.method, "arm": some.arm if some else ""}
                own["seeds"] = _joined(line.ours.seeds) if line.ours else ""
                for column in table.columns:
                    values = _numbers("ours", line.ours.cells.get(column.key) if line.ours else None)
                    values |= _numbers("paper", line.paper.cells.get(column.key) if line.paper else None)
                    if values:
                        lines.append(
                            {**own, **values, "metric": column.key, "unit": column.unit, "source": source()}
                        )
    return _written(names, lines)


def paired_csv(tables: Sequence[ResultsTable], pairs: Sequence[Sequence[ArmPair]]) -> str:
    """One line for each difference between two arms in a metric."""
    names = [*HEAD, "first", "second", "metric", "unit", "difference", "low", "high"]
    names += ["level", "over", "seeds", "samples", "finding"]
    lines = []
    for table, own in zip(tables, pairs, strict=True):
        for pair in own:
            for key, difference in pair.differences.items():
                values: dict[str, Any] = {name: getattr(table, name) for name in HEAD}
                values |= {"first": pair.first.name, "second": pair.second.name, "metric": key}
                values |= {"difference": difference.interval.mean, "level": LEVEL}
                values |= {"low": difference.interval.low, "high": difference.interval.high}
                values |= {"unit": difference.column.unit, "over": difference.over}
                values |= {"seeds": difference.seeds, "samples": difference.samples}
                lines.append({**values, "finding": difference.finding})
    return _written(names, lines)


def _numbers(whose: str, cell: Cell | None) -> dict[str, float | None]:
    if cell is None:
        return {}
    return {whose: cell.mean, f"{whose}_std": cell.std, f"{whose}_change": cell.change}


def _joined(values: Iterable[int]) -> str:
    return " ".join(map(str, values))


def _written(names: Sequence[str], lines: Iterable[dict[str, Any]]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()
