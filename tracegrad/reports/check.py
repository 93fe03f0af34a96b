"""Compares the numbers of a report with expected ones: those of a file of tolerances, or those of the paper."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tracegrad.errors import ConfigError, TraceGradError
from tracegrad.reports.columns import TIME
from tracegrad.reports.paper import ComparedTable
from tracegrad.reports.table import Cell, ResultsTable

# Keys of an entry that choose tables -> the attribute of `ResultsTable` that must have the value of the key.
_PLACES = {
    "table": "title",
    "experiment": "experiment",
    "database": "database_label",
    "split": "split",
    "backbone": "backbone",
}
_NUMBERS = ("expected", "tolerance", "relative", "below", "above")
MOST_NAMED = 3  # failed checks that the error message lists
_QUANTITIES = ("mean", "std", "change")


class CheckError(TraceGradError):
    """Numbers that are outside their bounds, or missing."""


@dataclass(frozen=True)
class Check:
    """The bounds of one number of a report.

    Attributes:
        where: keys and values that choose the tables, see `read_checks`.
        arm: name of the row.
        metric: log name of the column.
        quantity: "mean", "std" or "change".
        low, high: bounds, which the number may equal; in the unit of the metric, of a change in percent.
    """

    where: dict[str, str]
    arm: str
    metric: str
    quantity: str
    low: float
    high: float


@dataclass(frozen=True)
class CheckOutcome:
    """A number of a report (None: missing), its bounds, and its name: table, row and column."""

    name: str
    value: float | None
    low: float
    high: float

    @property
    def passed(self) -> bool:
        """Whether the number exists and is within its bounds."""
        return self.value is not None and self.low <= self.value <= self.high

    @property
    def text(self) -> str:
        """One line, such as "ok: demo, tracegrad, test/h_mae = 115.6, expected at most 400"."""
        if math.isinf(self.low):
            bounds = f"at most {self.high:.5g}"
        elif math.isinf(self.high):
            bounds = f"at least {self.low:.5g}"
        else:
            bounds = f"{self.low:.5g} to {self.high:.5g}"
        value = "missing" if self.value is None else f"{self.value:.5g}"
        return f"{'ok' if self.passed else 'FAILED'}: {self.name} = {value}, expected {bounds}"


def read_checks(path: Path) -> list[Check]:
    """The entries of a file of tolerances.

    The file is YAML with a list ``checks``. Each entry is a mapping with

    * ``metric`` (log name) and ``arm`` (a name or a list of names);
    * any of ``table``, ``experiment``, ``database``, ``split``, ``backbone``, to choose tables;
    * either ``expected`` with ``tolerance`` (in the unit of the metric) or ``relative`` (a fraction of
      ``expected``), or the bounds ``below`` and/or ``above``;
    * optionally ``quantity``: ``mean`` over seeds (default), ``std`` or ``change`` (percent against the baseline).

    Raises:
        ConfigError: the file cannot be read, or an entry has other keys or values.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{path}: not readable as YAML ({error}); set check to a file of tolerances"
        ) from error
    entries = content.get("checks") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{path}: holds no list 'checks'; write at least one entry into it")
    return [check for i, entry in enumerate(entries) for check in _checks(f"{path}, entry {i + 1}", entry)]


def run_checks(checks: Sequence[Check], tables: Sequence[ResultsTable]) -> list[CheckOutcome]:
    """The outcome of each check in every table that it chooses; a check that chooses no table counts as missing."""
    outcomes = []
    for check in checks:
        chosen = [
            table
            for table in tables
            if all(getattr(table, _PLACES[key]) == value for key, value in check.where.items())
        ]
        kind = "" if check.quantity == "mean" else f" ({check.quantity})"
        what = f"{check.arm}, {check.metric}{kind}"
        for table in chosen:
            row = next((row for row in table.rows if row.name == check.arm), None)
            value = _quantity(row.cells.get(check.metric) if row else None, check.quantity)
            name = f"{table.title} ({table.experiment}), {what}"
            outcomes.append(CheckOutcome(name, value, check.low, check.high))
        if not chosen:
            where = ", ".join(f"{key} {value}" for key, value in check.where.items())
            outcomes.append(CheckOutcome(f"{where or 'any table'}, {what}", None, check.low, check.high))
    return outcomes


def paper_outcomes(compared: Sequence[ComparedTable], relative: float) -> list[CheckOutcome]:
    """Compares our numbers with those of the paper: each must exist and differ by at most the fraction ``relative``.

    Inference times are left out, because they belong to a machine, and so are backbones that were not run.
    """
    outcomes: dict[tuple[str, str, str], CheckOutcome] = {}
    for table in compared:
        for section in table.sections:
            for line in section.lines:
                if line.paper is None or (line.ours is None and table.paper.every_backbone):
                    continue
                for column in table.columns:
                    published = line.paper.cells.get(column.key)
                    if published is None or column.key == TIME:
                        continue
                    value = _quantity(line.ours.cells.get(column.key) if line.ours else None, "mean")
                    outcomes[section.title, line.method, column.key] = CheckOutcome(
                        f"{section.title}, {line.method}, {column.name} ({table.paper.name})",
                        value,
                        published.mean - relative * abs(published.mean),
                        published.mean + relative * abs(published.mean),
                    )
    return list(outcomes.values())


def require(outcomes: Sequence[CheckOutcome]) -> None:
    """Raise `CheckError` if a check has failed, or if there is none."""
    if not outcomes:
        raise CheckError(
            "no number to check: no run is on data of the paper; for other data set check to a file of tolerances"
        )
    failed = [outcome for outcome in outcomes if not outcome.passed]
    if failed:
        names = "; ".join(outcome.text.removeprefix("FAILED: ") for outcome in failed[:MOST_NAMED])
        more = f"; and {len(failed) - MOST_NAMED} more" if len(failed) > MOST_NAMED else ""
        raise CheckError(f"{len(failed)} of {len(outcomes)} checks failed: {names}{more}")


def _quantity(cell: Cell | None, quantity: str) -> float | None:
    value = None if cell is None else getattr(cell, quantity)
    return value if value is not None and math.isfinite(value) else None


def _checks(where: str, entry: Any) -> list[Check]:
    known = {*_PLACES, *_NUMBERS, "arm", "metric", "quantity"}
    if not isinstance(entry, dict) or not {"arm", "metric"} <= entry.keys() <= known:
        raise ConfigError(f"{where}: {entry!r}; an entry needs arm and metric, and may have {sorted(known)}")
    for key in _NUMBERS:
        if isinstance(entry.get(key, 0), bool) or not isinstance(entry.get(key, 0), int | float):
            raise ConfigError(f"{where}: {key} is {entry[key]!r}; a number is needed")
    quantity = entry.get("quantity", "mean")
    if quantity not in _QUANTITIES:
        raise ConfigError(f"{where}: quantity is {quantity!r}; choose one of {list(_QUANTITIES)}")
    low, high = _bounds(where, entry)
    places = {key: str(entry[key]) for key in _PLACES if key in entry}
    arms = entry["arm"] if isinstance(entry["arm"], list) else [entry["arm"]]
    return [Check(places, str(arm), str(entry["metric"]), quantity, low, high) for arm in arms]


def _bounds(where: str, entry: dict[str, Any]) -> tuple[float, float]:
    bounded = entry.keys() & {"below", "above"}
    ranges = entry.keys() & {"tolerance", "relative"}
    if "expected" not in entry:
        if not bounded or ranges:
            raise ConfigError(f"{where}: give expected with tolerance or relative, or below and/or above")
        return float(entry.get("above", -math.inf)), float(entry.get("below", math.inf))
    if bounded or len(ranges) != 1:
        raise ConfigError(
            f"{where}: expected needs either tolerance or relative, and neither below nor above"
        )
    half = entry["tolerance"] if "tolerance" in entry else entry["relative"] * abs(entry["expected"])
    return float(entry["expected"] - half), float(entry["expected"] + half)
