"""Tables as CSV (comma-separated values) for spreadsheets and pandas, with unrounded numbers.

Energies are in meV, changes in percent. Cells that do not exist are empty. The same tables as JSON, with the value
of every seed: `tracegrad.reports.structured`.
"""

import csv
import io
from collections.abc import Sequence
from typing import Any

from tracegrad.reports.paired import ArmPair
from tracegrad.reports.paper import ComparedTable, source
from tracegrad.reports.structured import difference_values, row_values
from tracegrad.reports.table import Cell, ResultsTable


def to_csv(tables: Sequence[ResultsTable]) -> str:
    """All rows of all tables, one line each.

    For each metric there are four columns: KEY (mean over seeds), KEY/std, KEY/change (percent) and KEY/best (0, 1).
    """
    keys = dict.fromkeys(column.key for table in tables for column in table.columns)
    lines = []
    for table in tables:
        for row in table.rows:
            line = table.head | row_values(row)
            del line["runs"], line["metrics"]
            for key in keys:
                cell = row.cells.get(key)
                line |= _numbers(cell, key, f"{key}/std", f"{key}/change")
                line[f"{key}/best"] = cell and cell.best
            lines.append(line)
    return _csv(lines)


def paper_csv(compared: Sequence[ComparedTable]) -> str:
    """The tables of the paper, one line for each method and metric: our number and the paper's."""
    lines = []
    for table in compared:
        methods = [(section, line) for section in table.sections for line in section.lines]
        for section, line in methods:
            row = line.ours or line.paper
            for column in table.columns:
                ours, paper = (of.cells.get(column.key) if of else None for of in (line.ours, line.paper))
                if row is None or not (ours or paper):
                    continue
                values: dict[str, Any] = {"table": table.paper.number, "database": section.database}
                values |= {"section": section.title, "method": line.method, "arm": row.arm}
                values |= {"metric": column.key, "unit": column.unit}
                values |= _numbers(ours, "ours", "ours_std", "ours_change")
                values |= _numbers(paper, "paper", "paper_std", "paper_change")
                lines.append(values | {"seeds": line.ours and line.ours.seeds, "source": source()})
    return _csv(lines)


def paired_csv(tables: Sequence[ResultsTable], pairs: Sequence[Sequence[ArmPair]]) -> str:
    """The differences between arms, one line for each pair of arms and metric."""
    lines = []
    for table, table_pairs in zip(tables, pairs, strict=True):
        for pair in table_pairs:
            arms = {"first": pair.first.name, "second": pair.second.name}
            for key, difference in pair.differences.items():
                metric = {"metric": key, "unit": difference.column.unit}
                lines.append(table.head | arms | metric | difference_values(difference))
    return _csv(lines)


def _numbers(cell: Cell | None, mean: str, std: str, change: str) -> dict[str, Any]:
    """The numbers of a cell under these names; None where there is no cell."""
    values = (cell.mean, cell.std, cell.change) if cell else (None, None, None)
    return dict(zip((mean, std, change), values, strict=True))


def _csv(lines: Sequence[dict[str, Any]]) -> str:
    """A table of lines with the same columns; lists are written with spaces, true and false as 1 and 0."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    for line in lines:
        writer.writerow({name: _text(value) for name, value in line.items()})
    return file.getvalue()


def _text(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return int(value) if isinstance(value, bool) else value
