"""What the paper has and a report has not, each with the reason."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tracegrad.reports.paper import ComparedTable, by_database, paper_tables, unimplemented, why_absent
from tracegrad.reports.table import ResultsTable

NO_PAPER_DATA = "no run is on a database of the paper"
TITLE = "Not in this report"
_PLURAL = {"Table": "Tables", "Fig.": "Figs."}


@dataclass(frozen=True)
class Absence:
    """An item of the paper, such as "Table" and "8", and why it is not there, or not whole."""

    kind: str
    number: str
    reason: str


def absent_tables(tables: Sequence[ResultsTable], compared: Sequence[ComparedTable]) -> list[Absence]:
    """The paper's tables that the report lacks; what a table that is there lacks stands below it."""
    shown = {table.paper.number for table in compared}
    own = by_database(tables)
    found = []
    for paper in paper_tables():
        if paper.number in shown:
            continue
        kind, _, number = paper.name.partition(" ")
        reasons: dict[str, list[str]] = {}
        for database in paper.databases:
            reasons.setdefault(why_absent(paper, own.get(database, [])), []).append(database)
        for reason, databases in reasons.items():
            text = f"{reason} on {joined(databases, 'or')}" if own else NO_PAPER_DATA
            found.append(Absence(kind, number, text))
        backbones = unimplemented(paper, tables)
        if backbones:
            found.append(Absence(kind, number, f"{joined(backbones)} {_are(backbones)} not implemented"))
    return found


def absent_lines(absences: Iterable[Absence]) -> list[str]:
    """One line for each reason, with all items that it holds for."""
    reasons: dict[str, dict[str, list[str]]] = {}
    for absence in absences:
        reasons.setdefault(absence.reason, {}).setdefault(absence.kind, []).append(absence.number)
    lines = []
    for reason, kinds in reasons.items():
        items = [_items(kind, list(dict.fromkeys(numbers))) for kind, numbers in kinds.items()]
        lines.append(f"{', '.join(items)}: {reason}")
    return lines


def joined(names: Sequence[str], word: str = "and") -> str:
    """Such as "MG, MM and BG"."""
    return f" {word} ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _items(kind: str, numbers: Sequence[str]) -> str:
    return f"{_PLURAL.get(kind, kind) if len(numbers) > 1 else kind} {joined(numbers)}"


def _are(names: Sequence[str]) -> str:
    return "are" if len(names) > 1 else "is"
