"""The tables and figures of the paper that a report lacks, each with the reason."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tracegrad.reports.paper import ComparedTable, by_database, paper_tables, why_absent
from tracegrad.reports.table import ResultsTable

NO_PAPER_DATA = "no run is on a database of the paper"
TITLE = "Not in this report"
_PLURAL = {"Table": "Tables", "Fig.": "Figs."}


@dataclass(frozen=True)
class Absence:
    """An item of the paper, such as kind "Table" and number "8", and why the report lacks it or a part of it."""

    kind: str
    number: str
    reason: str


def absent_tables(tables: Sequence[ResultsTable], compared: Sequence[ComparedTable]) -> list[Absence]:
    """The tables of the paper that a report lacks completely.

    Tables that the report shows in part are not listed here: their notes name what is missing.
    """
    shown = {table.paper.number for table in compared}
    on_paper_data = by_database(tables)
    absences = []
    for paper in paper_tables():
        if paper.number in shown:
            continue
        kind, _, number = paper.name.partition(" ")
        reasons: dict[str, list[str]] = {}
        for database in paper.databases:
            reason = why_absent(paper, on_paper_data.get(database, []))
            reasons.setdefault(reason, []).append(database)
        for reason, databases in reasons.items():
            text = f"{reason} on {joined(databases, 'or')}" if on_paper_data else NO_PAPER_DATA
            absences.append(Absence(kind, number, text))
    return absences


def absent_lines(absences: Iterable[Absence]) -> list[str]:
    """One line for each reason: the items of the paper that are absent for it, then the reason."""
    reasons: dict[str, dict[str, list[str]]] = {}
    for absence in absences:
        reasons.setdefault(absence.reason, {}).setdefault(absence.kind, []).append(absence.number)
    lines = []
    for reason, kinds in reasons.items():
        items = [_items(kind, list(dict.fromkeys(numbers))) for kind, numbers in kinds.items()]
        lines.append(f"{', '.join(items)}: {reason}")
    return lines


def joined(names: Sequence[str], word: str = "and") -> str:
    """Names as a list in a sentence, such as "MG, MM and BG"; ``word`` goes before the last one."""
    return f" {word} ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _items(kind: str, numbers: Sequence[str]) -> str:
    return f"{_PLURAL.get(kind, kind) if len(numbers) > 1 else kind} {joined(numbers)}"
