"""The numbers of the paper, and beside them those of runs on the same data, in the layout of the paper's tables.

compared, notes = compare_with_paper(results_table(collect_results("runs")))
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tracegrad.data.published import PUBLISHED
from tracegrad.metrics.columns import Column
from tracegrad.reports.arms import BASELINE
from tracegrad.reports.columns import TIME, columns_of
from tracegrad.reports.inference import cost, protocol_lines
from tracegrad.reports.table import Cell, ResultsTable, Row

DATA = Path(__file__).with_name("paper.yaml")
# The splits of the paper's databases of molecules. Databases of crystals have one split, known by its sample counts.
SPLITS = {"QS": "ood", "QD": "mol"}
# Ending of the names of backbones that follow the idea of a published one, with details of our own.
STYLE = "-style"


@dataclass(frozen=True)
class PaperRow:
    """A row of a table of the paper.

    ``cells`` are keyed by log name; their change against the baseline is computed from the printed numbers.
    """

    database: str
    method: str
    arm: str
    cells: dict[str, Cell]

    @property
    def backbone(self) -> str:
        """The name of the backbone: the method without its suffix such as +TraceGrad."""
        return self.method.partition("+")[0]


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper, or the times of its Appendix I (number "I").

    Attributes:
        number: such as "1".
        caption, note: as printed in reports.
        keys: log names of the columns.
        rows: in the order of the paper.
        shown_with: the table is shown if one of these arms was run; () for any arm.
        every_backbone: also show our rows of methods that the paper's table does not have.
        needs: measurements that runs must have besides their test errors, in words; "" for none.
    """

    number: str
    caption: str
    note: str
    keys: tuple[str, ...]
    rows: tuple[PaperRow, ...]
    shown_with: tuple[str, ...] = ()
    every_backbone: bool = False
    needs: str = ""

    @property
    def name(self) -> str:
        """Such as "Table 1", or "Appendix I"."""
        return f"Table {self.number}" if self.number.isdigit() else f"Appendix {self.number}"

    @property
    def databases(self) -> tuple[str, ...]:
        """The databases of its rows, in the order of the paper."""
        return tuple(dict.fromkeys(row.database for row in self.rows))


@dataclass(frozen=True)
class ComparedMethod:
    """Our row of a method (None: not run) and the paper's row (None: not in the paper's table)."""

    method: str
    ours: Row | None
    paper: PaperRow | None


@dataclass(frozen=True)
class Section:
    """The part of a table with the methods on one database."""

    database: str
    title: str
    lines: tuple[ComparedMethod, ...]


@dataclass(frozen=True)
class ComparedTable:
    """A table of the paper with a section for each database on which there are runs."""

    paper: PaperTable
    columns: tuple[Column, ...]
    sections: tuple[Section, ...]
    notes: tuple[str, ...]


@cache
def source() -> str:
    """The publication from which the numbers are taken."""
    return str(_content()["source"])


@cache
def paper_tables() -> tuple[PaperTable, ...]:
    """All tables of results of the paper."""
    return tuple(_paper_table(number, entry) for number, entry in _content()["tables"].items())


def paper_database(table: ResultsTable) -> tuple[str | None, str | None]:
    """The database of the paper on which the runs of a table were made, or None.

    If a table has the name of such a database but other data, the second value says what differs.
    """
    name = table.database_label
    if name not in PUBLISHED:
        return None, None
    if table.part != "test":
        return None, f"its errors are those of the {table.part} set"
    if table.split != SPLITS.get(name, table.split):
        return None, f"its split is {table.split!r}, that of the paper {SPLITS[name]!r}"
    counts = {part: numbers.samples for part, numbers in PUBLISHED[name].parts.items()}
    if table.counts != counts:
        return None, f"its data are {_list(table.counts)}, those of the paper {_list(counts)}"
    return name, None


def compare_with_paper(tables: Sequence[ResultsTable]) -> tuple[list[ComparedTable], list[str]]:
    """The tables of the paper for which there are runs on the same data, and notes on tables with other data."""
    notes = []
    for table in tables:
        database, reason = paper_database(table)
        if reason and not database:
            notes.append(f"{table.title} is not compared with the paper's {table.database_label}: {reason}")
    compared = (_compare(paper, tables) for paper in paper_tables())
    return [table for table in compared if table.sections], notes


def by_database(tables: Sequence[ResultsTable]) -> dict[str, list[ResultsTable]]:
    """The tables whose runs were made on a database of the paper, by the name of the database."""
    on_paper_data: dict[str, list[ResultsTable]] = {}
    for table in tables:
        database, _ = paper_database(table)
        if database:
            on_paper_data.setdefault(database, []).append(table)
    return on_paper_data


def why_absent(paper: PaperTable, tables: Sequence[ResultsTable]) -> str:
    """Why there is no section for a database in a table of the paper; ``tables`` are ours on that database."""
    rows = [row for table in tables for row in table.arms if not row.variant]
    if not rows:
        return "no run"
    if not any(set(paper.keys) & row.cells.keys() for row in rows):
        return f"no {paper.needs}" if paper.needs else "no run with these errors"
    if paper.shown_with:
        return "no run of +Trace or +Grad, without which it repeats Table 1,"
    return "no run of its methods"


def _compare(paper: PaperTable, tables: Sequence[ResultsTable]) -> ComparedTable:
    on_paper_data = by_database(tables)
    sections: list[Section] = []
    absent: dict[str, list[str]] = {}
    for database in paper.databases:
        of_database = _sections(paper, database, on_paper_data.get(database, []))
        sections += of_database
        if not of_database:
            reason = why_absent(paper, on_paper_data.get(database, []))
            absent.setdefault(reason, []).append(database)
    timed = TIME in paper.keys
    notes = [f"paper: {source()}; (change against the baseline, for the paper computed from its numbers)"]
    notes += [paper.note] if paper.note else []
    notes += [line for section in sections for line in _time_lines(section)] if timed else []
    notes += [f"{reason} on {', '.join(databases)}" for reason, databases in absent.items()]
    return ComparedTable(paper, _columns(paper), tuple(sections), tuple(notes))


@cache
def block_cost() -> tuple[float, float]:
    """The smallest and the largest slowdown by +TraceGrad in the paper, in percent (Appendix I)."""
    table = next(table for table in paper_tables() if TIME in table.keys)
    changes = [row.cells[TIME].change for row in table.rows]
    known = [change for change in changes if change is not None]
    return min(known), max(known)


def _time_lines(section: Section) -> list[str]:
    """How the times of a section were measured, and the slowdown by TraceGrad here and in the paper."""
    rows = [line.ours for line in section.lines if line.ours is not None]
    lines = protocol_lines(rows)
    slowdown = cost(rows)
    if slowdown is not None:
        plain, full, ours = slowdown
        theirs = next(
            line.paper.cells[TIME].change for line in section.lines if line.ours is full and line.paper
        )
        lines.append(
            f"time of {full.label} against {plain.label}: {ours:+.1f} % here, {theirs:+.1f} % in the paper"
        )
    return [f"{section.title}: {line}" for line in lines]


def _sections(paper: PaperTable, database: str, tables: Sequence[ResultsTable]) -> list[Section]:
    published = [row for row in paper.rows if row.database == database]
    methods = {row.method for row in published}
    groups = [[table] for table in tables]
    if paper.every_backbone:
        groups = [list(tables)]
    sections = []
    for group in groups:
        rows = [row for table in group for row in table.arms if not row.variant]
        rows = [row for row in rows if set(paper.keys) & row.cells.keys()]
        if not paper.every_backbone:
            rows = [row for row in rows if _method(row) in methods]
        if not rows or (paper.shown_with and not {row.arm for row in rows} & set(paper.shown_with)):
            continue
        lines = [
            ComparedMethod(
                entry.method, next((row for row in rows if _method(row) == entry.method), None), entry
            )
            for entry in published
        ]
        lines += [ComparedMethod(row.label, row, None) for row in rows if _method(row) not in methods]
        title = database if len(groups) == 1 else f"{database}, {group[0].experiment}"
        sections.append(Section(database, title, tuple(lines)))
    return sections


def _method(row: Row) -> str:
    """The name that the paper has for the method of our row."""
    return row.label.replace(STYLE, "")


def _columns(paper: PaperTable) -> tuple[Column, ...]:
    crystal = paper.databases[0] not in SPLITS
    subsets = ("", "twisted") if any(key.endswith("/twisted") for key in paper.keys) else ("",)
    known = {column.key: column for column in columns_of(crystal, subsets)}
    return tuple(known[key] for key in paper.keys)


def _paper_table(number: str, entry: dict[str, Any]) -> PaperTable:
    keys = tuple(entry["columns"])
    baselines: dict[tuple[str, str], dict[str, float]] = {}
    rows = []
    for row in entry["rows"]:
        values = dict(zip(keys, row["values"], strict=False))
        stds = dict(zip(keys, row.get("stds", ()), strict=False))
        backbone = (row["database"], row["method"].partition("+")[0])
        if row["arm"] == BASELINE:
            baselines[backbone] = values
        reference = {} if row["arm"] == BASELINE else baselines[backbone]
        cells = {
            key: Cell((value,), value, stds.get(key), _change(value, reference.get(key)))
            for key, value in values.items()
            if value is not None
        }
        rows.append(PaperRow(row["database"], row["method"], row["arm"], cells))
    return PaperTable(
        number,
        entry["caption"],
        entry.get("note", ""),
        keys,
        tuple(rows),
        tuple(entry.get("shown_with", ())),
        entry.get("every_backbone", False),
        entry.get("needs", ""),
    )


def _change(value: float, reference: float | None) -> float | None:
    return None if reference is None or math.isclose(reference, 0) else 100 * (value / reference - 1)


@cache
def _content() -> dict[str, Any]:
    return yaml.safe_load(DATA.read_text(encoding="utf-8"))


def _list(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {part}" for part, count in counts.items())
