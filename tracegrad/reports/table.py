"""Tables of results: rows (arms) of cells (metrics)."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tracegrad.metrics.columns import Column
from tracegrad.reports.challenge import Challenge
from tracegrad.reports.columns import superscript
from tracegrad.reports.compatible import samples_name
from tracegrad.reports.results import RunResult

TRIVIAL = "trivial"
# Attributes of a table that identify it.
HEAD = (
    "experiment",
    "database",
    "database_label",
    "split",
    "split_hash",
    "backbone",
    "checkpoint",
    "part",
)


@dataclass(frozen=True)
class Cell:
    """One metric of one row.

    Attributes:
        values: of each seed, in the unit of the column.
        mean: over the seeds.
        std: sample standard deviation over seeds (None for one seed). In a column ``over_samples`` it is the standard
            deviation over samples, averaged over seeds.
        change: relative change of the mean against the baseline, percent; None for the baseline itself and in tables
            without one.
        best: whether the mean is the best of the table.
    """

    values: tuple[float, ...]
    mean: float
    std: float | None = None
    change: float | None = None
    best: bool = False


@dataclass(frozen=True)
class Row:
    """One arm, or the trivial predictor. ``cells`` is keyed by columns and lacks those that were not measured."""

    arm: str
    label: str
    cells: dict[str, Cell]
    runs: tuple[RunResult, ...] = ()
    variant: str = ""

    @property
    def name(self) -> str:
        """Arm and variant, which identify the row in its table."""
        return f"{self.arm}, {self.variant}" if self.variant else self.arm

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds behind the means, ascending."""
        return tuple(run.seed for run in self.runs)

    @property
    def steps(self) -> tuple[int, ...]:
        """Optimisation steps of the checkpoints, in the order of the seeds."""
        return tuple(run.step for run in self.runs)

    @property
    def seconds(self) -> float | None:
        """Mean training time in seconds; None if a run did not measure it."""
        seconds = [run.train_seconds for run in self.runs if run.train_seconds is not None]
        return float(np.mean(seconds)) if seconds and len(seconds) == len(self.runs) else None


@dataclass(frozen=True)
class ResultsTable:
    """The results of one experiment with one backbone on one split of one database.

    The attributes of `HEAD`, ``crystal`` and ``counts`` are those of its runs, see `RunResult`. ``subsets`` are the
    parts of the test set that have separate columns, ``footnotes`` explain columns, and ``notes`` say what to bear in
    mind when rows are compared.
    """

    experiment: str
    database: str
    database_label: str
    split: str
    split_hash: str
    backbone: str
    checkpoint: str
    part: str
    crystal: bool
    counts: dict[str, int]
    subsets: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    challenge: Challenge | None
    footnotes: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def head(self) -> dict[str, Any]:
        """The attributes that identify the table, which JSON and CSV files repeat."""
        return {name: getattr(self, name) for name in HEAD}

    @property
    def title(self) -> str:
        """Short heading, such as "QD, geometry split"."""
        return f"{self.database_label}, {self.split} split"

    @property
    def arms(self) -> tuple[Row, ...]:
        """The rows of trained networks."""
        return tuple(row for row in self.rows if row.arm != TRIVIAL)

    @property
    def samples(self) -> str:
        """What the samples are: "structures" or "molecules"."""
        return samples_name(self.crystal)

    def row(self, arm: str) -> Row | None:
        """The row of an arm without a variant; None if there is none."""
        return next((row for row in self.arms if (row.arm, row.variant) == (arm, "")), None)

    def superscript(self, subset: str) -> str:
        """The paper's superscript of a subset in brackets; "" for a test set without subsets."""
        return superscript(subset, self.subsets)


def with_best(rows: Sequence[dict[str, Cell]], columns: Iterable[Column]) -> list[dict[str, Cell]]:
    """The cells of rows, with the best mean of each column marked if at least two rows have the column."""
    marked = [{key: replace(cell, best=False) for key, cell in cells.items()} for cells in rows]
    for column in columns:
        means = [cells[column.key].mean for cells in marked if column.key in cells]
        finite = [mean for mean in means if math.isfinite(mean)]
        if len(means) < 2 or not finite or column.lower_is_better is None:
            continue
        best = min(finite) if column.lower_is_better else max(finite)
        for cells in marked:
            if column.key in cells and cells[column.key].mean == best:
                cells[column.key] = replace(cells[column.key], best=True)
    return marked
