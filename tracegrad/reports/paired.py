"""Differences between arms on the same seeds and the same test samples, with confidence intervals.

Two arms that are trained with the same seeds and tested on the same samples share much of what makes their
errors scatter; the differences, seed by seed and sample by sample, do not contain it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit

from tracegrad.reports.arms import BASELINE
from tracegrad.reports.columns import Column
from tracegrad.reports.results import RunResult
from tracegrad.reports.samples import FILE, NotMeasuredError, Sample, read_samples
from tracegrad.reports.table import ResultsTable, Row

LEVEL = 0.95
PANELS = ("accuracy", "orbitals", "acceleration")
# More rows, as of a sweep, are compared with the first one only.
MOST_ROWS = 4
METHOD = (
    f"difference of the means over the seeds and samples that both have, [{LEVEL:.0%} confidence interval]",
    "seeds and samples count as random and crossed: two-way analysis of variance of the differences of single "
    "samples, Student's t with Satterthwaite's degrees of freedom; marked 'seeds': over seeds alone, as the "
    "metric is not known by sample; marked 'samples': one seed, so that another may well turn out otherwise",
    "an interval that contains 0 shows no difference, which does not show that there is none; each interval "
    "stands for itself, of 20 that hold no difference one excludes 0 by chance",
)


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval (None: a single number has none)."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Difference:
    """Of one metric between two arms; ``samples`` is 1 where it is not known by sample."""

    column: Column
    interval: Interval
    seeds: int
    samples: int

    @property
    def finding(self) -> str:
        """What the interval allows to say of the first arm."""
        low, high = self.interval.low, self.interval.high
        if not math.isfinite(self.interval.mean):
            return "not finite"
        if low is None or high is None:
            return "no interval"
        if low <= 0 <= high:
            return "no difference shown"
        return "better" if (high < 0) == bool(self.column.lower_is_better) else "worse"

    @property
    def over(self) -> str:
        """What the interval is over: both, or "seeds" or "samples" alone."""
        if self.samples == 1:
            return "seeds"
        return "samples" if self.seeds == 1 else "seeds and samples"


@dataclass(frozen=True)
class Pair:
    """The first row minus the second one; ``differences`` by the key of the column."""

    first: Row
    second: Row
    differences: dict[str, Difference]

    @property
    def label(self) -> str:
        """Such as "QHNet+TraceGrad - QHNet"."""
        return f"{self.first.label} - {self.second.label}"


def crossed_interval(differences: Float[np.ndarray, "seeds samples"], level: float = LEVEL) -> Interval:
    """Mean of d[s, i] = m + a[s] + b[i] + e[s, i] with random effects of seeds and samples.

    Var(mean) = (MS_seeds + MS_samples - MS_rest) / (seeds samples), where a mean square of an effect counts at
    least as much as that of the rest (a variance cannot be negative); degrees of freedom after Satterthwaite
    (1946). With one seed or one sample this is Student's interval over the others.
    """
    seeds, samples = differences.shape
    mean = float(differences.mean())
    if seeds * samples == 1 or not math.isfinite(mean):
        return Interval(mean, None, None)
    by_seed, by_sample = differences.mean(1) - mean, differences.mean(0) - mean
    rest = differences - mean - by_seed[:, None] - by_sample[None, :]
    # Mean squares and their degrees of freedom; an effect that has none is not there.
    terms = [
        (samples * (by_seed**2).sum(), seeds - 1, 1),
        (seeds * (by_sample**2).sum(), samples - 1, 1),
        ((rest**2).sum(), (seeds - 1) * (samples - 1), -1),
    ]
    squares = [(total / free, free, sign) for total, free, sign in terms if free]
    if len(squares) == 3:
        least = squares[2][0]
        squares = [(max(square, least), free, sign) for square, free, sign in squares]
    variance = sum(sign * square for square, _, sign in squares)
    if variance <= 0:
        return Interval(mean, mean, mean)
    free = variance**2 / sum(square**2 / free for square, free, _ in squares)
    half = float(stdtrit(free, (1 + level) / 2)) * math.sqrt(variance / (seeds * samples))
    return Interval(mean, mean - half, mean + half)


def paired_differences(table: ResultsTable) -> list[Pair]:
    """Every arm against every one before it; of more than `MOST_ROWS` rows each against the plain backbone.

    Raises:
        ResultsError: a table of samples is damaged.
    """
    rows = table.arms
    columns = [c for c in table.columns if c.panel in PANELS and c.lower_is_better is not None]
    found = {run.directory: _Values(run, columns) for row in rows for run in row.runs}
    pairs = []
    for first, second in _order(rows):
        ones, others = ({run.turn: run for run in row.runs} for row in (first, second))
        turns = [turn for turn in ones if turn in others]
        couples = [(found[ones[turn].directory], found[others[turn].directory]) for turn in turns]
        differences = {column.key: _difference(column, couples) for column in columns} if couples else {}
        measured = {key: difference for key, difference in differences.items() if difference is not None}
        if measured:
            pairs.append(Pair(first, second, measured))
    return pairs


def _order(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    if len(rows) <= MOST_ROWS:
        return [(first, second) for second, first in combinations(rows, 2)]
    reference = next((row for row in rows if row.arm == BASELINE), rows[0])
    return [(row, reference) for row in rows if row is not reference]


class _Values:
    """What a run tells of each column: values by sample where it has them, and the value of the test."""

    def __init__(self, run: RunResult, columns: Sequence[Column]):
        self.tests = run.metrics
        self.samples: tuple[Sample, ...] = ()
        self.columns: dict[str, Float[np.ndarray, " samples"]] = {}
        try:
            table = read_samples(run.directory / FILE)
        except NotMeasuredError:
            return
        self.samples = table.samples
        for column in columns:
            name = column.key.removeprefix("test/").partition("/")[0]
            if name in table and name not in self.columns:
                self.columns[name] = table.values(name)

    def of(self, column: Column) -> dict[Sample, float] | None:
        """Values of the samples of the column's subset."""
        name, _, subset = column.key.removeprefix("test/").partition("/")
        if name not in self.columns:
            return None
        values = zip(self.samples, self.columns[name].tolist(), strict=True)
        return {sample: value for sample, value in values if sample.subset == subset}


def _difference(column: Column, couples: Sequence[tuple[_Values, _Values]]) -> Difference | None:
    by_sample = [(one.of(column), other.of(column)) for one, other in couples]
    if all(one and other for one, other in by_sample):
        tables = [values for couple in by_sample for values in couple if values]
        common = [sample for sample in tables[0] if all(sample in values for values in tables)]
        # Of a single atom no run has MAE_nondiag; a value that only some lack must show.
        common = [s for s in common if not all(math.isnan(values[s]) for values in tables)]
        if common:
            matrix = np.array([[values[s] for s in common] for values in tables])
            differences = matrix[::2] - matrix[1::2]
            return Difference(column, crossed_interval(differences), *differences.shape)
    tests = [
        one.tests[column.key] - other.tests[column.key]
        for one, other in couples
        if column.key in one.tests and column.key in other.tests
    ]
    if not tests:
        return None
    return Difference(column, crossed_interval(np.array(tests)[:, None]), len(tests), 1)
