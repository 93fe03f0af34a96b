"""The paper's own numbers, and runs on the paper's data beside them, in the layout of its tables.

compared, notes = compare_with_paper(results_table(collect_results("runs")))
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tracegrad.backbones.known import known_backbones
from tracegrad.data.published import PUBLISHED
from tracegrad.reports.arms import BASELINE
from tracegrad.reports.columns import INFERENCE, Column, columns_of
from tracegrad.reports.inference import cost, protocol_lines
from tracegrad.reports.table import Cell, ResultsTable, Row

DATA = Path(__file__).with_name("paper.yaml")
# How the paper splits the databases of molecules; crystals are told apart by their numbers alone.
SPLITS = {"QS": "ood", "QD": "mol"}


@dataclass(frozen=True)
class PaperRow:
    """A printed row; ``cells`` by log name, with the change against the baseline that follows from the numbers."""

    database: str
    method: str
    arm: str
    cells: dict[str, Cell]

    @property
    def backbone(self) -> str:
        """The method without what TraceGrad adds."""
        return self.method.partition("+")[0]


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper (or, numbered I, the times of its Appendix I).

    It is shown where one of the arms ``shown_with`` was run; () stands for any. ``every_backbone`` adds rows of
    ours that the paper does not have. ``needs`` names what runs must have measured beside their test errors.
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
        """Table 1 to Table 8, or Appendix I."""
        return f"Table {self.number}" if self.number.isdigit() else f"Appendix {self.number}"

    @property
    def databases(self) -> tuple[str, ...]:
        """In the paper's order."""
        return tuple(dict.fromkeys(row.database for row in self.rows))


@dataclass(frozen=True)
class ComparedMethod:
    """A method of ours (None: not run) and the paper's row of it (None: the paper has none)."""

    method: str
    ours: Row | None
    paper: PaperRow | None


@dataclass(frozen=True)
class Section:
    """The methods on one database."""

    database: str
    title: str
    lines: tuple[ComparedMethod, ...]


@dataclass(frozen=True)
class ComparedTable:
    """A table of the paper with the sections that runs exist for."""

    paper: PaperTable
    columns: tuple[Column, ...]
    sections: tuple[Section, ...]
    notes: tuple[str, ...]
    unimplemented: tuple[str, ...] = ()  # backbones of its rows that there are neither runs nor code of


@cache
def source() -> str:
    """What the numbers are taken from."""
    return str(_content()["source"])


@cache
def paper_tables() -> tuple[PaperTable, ...]:
    """All tables of results of the paper."""
    return tuple(_paper_table(number, entry) for number, entry in _content()["tables"].items())


def paper_database(table: ResultsTable) -> tuple[str | None, str | None]:
    """The database of the paper that a table is of, and, where only the name is right, what differs."""
    name = table.database_label
    if name not in PUBLISHED:
        return None, None
    if table.part != "test":
        return None, f"these are errors on the {table.part} set"
    if table.split != SPLITS.get(name, table.split):
        return None, f"the split is {table.split!r}, that of the paper {SPLITS[name]!r}"
    counts = {part: numbers.samples for part, numbers in PUBLISHED[name].parts.items()}
    if table.counts != counts:
        return None, f"the data are {_list(table.counts)}, those of the paper {_list(counts)}"
    return name, None


def compare_with_paper(tables: Sequence[ResultsTable]) -> tuple[list[ComparedTable], list[str]]:
    """The tables of the paper as far as there are runs on its data, and notes on runs that are not quite."""
    notes = []
    for table in tables:
        database, reason = paper_database(table)
        if reason and not database:
            notes.append(f"{table.title} is not beside the paper's {table.database_label}: {reason}")
    compared = (_compare(paper, tables) for paper in paper_tables())
    return [table for table in compared if table.sections], notes


def by_database(tables: Sequence[ResultsTable]) -> dict[str, list[ResultsTable]]:
    """The tables that are on databases of the paper."""
    own: dict[str, list[ResultsTable]] = {}
    for table in tables:
        database, _ = paper_database(table)
        if database:
            own.setdefault(database, []).append(table)
    return own


def unimplemented(paper: PaperTable, tables: Sequence[ResultsTable]) -> list[str]:
    """Backbones of a table of the paper that TraceGrad does not have, and that no run has either."""
    known = {backbone.label for backbone in known_backbones()} | {table.backbone for table in tables}
    return [name for name in dict.fromkeys(row.backbone for row in paper.rows) if name not in known]


def why_absent(paper: PaperTable, tables: Sequence[ResultsTable]) -> str:
    """Why tables of ours on one database of a table of the paper give no section of it."""
    rows = [row for table in tables for row in table.arms if not row.variant]
    if not rows:
        return "no run"
    if not any(set(paper.keys) & row.cells.keys() for row in rows):
        return f"no {paper.needs}" if paper.needs else "no run with these errors"
    if paper.shown_with:
        return "no run of +Trace or +Grad, without which it repeats Table 1,"
    return "no run of its methods"


def _compare(paper: PaperTable, tables: Sequence[ResultsTable]) -> ComparedTable:
    own = by_database(tables)
    missing = unimplemented(paper, tables)
    sections: list[Section] = []
    absent: dict[str, list[str]] = {}
    for database in paper.databases:
        found = _sections(paper, database, own.get(database, []))
        sections += found
        if not found:
            absent.setdefault(why_absent(paper, own.get(database, [])), []).append(database)
    timed = INFERENCE in paper.keys
    notes = [f"paper: {source()}; (change against the baseline, the paper's from its own numbers)"]
    notes += [paper.note] if paper.note else []
    notes += [line for section in sections for line in _time_lines(section)] if timed else []
    notes += [f"{reason} on {', '.join(databases)}" for reason, databases in absent.items()]
    if missing:
        notes.append(f"not implemented: {', '.join(missing)}; these rows are the paper's alone")
    return ComparedTable(paper, _columns(paper), tuple(sections), tuple(notes), tuple(missing))


@cache
def block_cost() -> tuple[float, float]:
    """By how many percent +TraceGrad is slower in the paper, at least and at most (Appendix I)."""
    table = next(table for table in paper_tables() if INFERENCE in table.keys)
    changes = [row.cells[INFERENCE].change for row in table.rows]
    known = [change for change in changes if change is not None]
    return min(known), max(known)


def _time_lines(section: Section) -> list[str]:
    """How the times of a section were measured, and what the block costs here and in the paper."""
    rows = [line.ours for line in section.lines if line.ours is not None]
    lines = protocol_lines(rows)
    found = cost(rows)
    if found is not None:
        plain, full, ours = found
        theirs = next(
            line.paper.cells[INFERENCE].change for line in section.lines if line.ours is full and line.paper
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
            rows = [row for row in rows if row.label in methods]
        if not rows or (paper.shown_with and not {row.arm for row in rows} & set(paper.shown_with)):
            continue
        lines = [
            ComparedMethod(
                entry.method, next((row for row in rows if row.label == entry.method), None), entry
            )
            for entry in published
        ]
        lines += [ComparedMethod(row.label, row, None) for row in rows if row.label not in methods]
        title = database if len(groups) == 1 else f"{database}, {group[0].experiment}"
        sections.append(Section(database, title, tuple(lines)))
    return sections


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
