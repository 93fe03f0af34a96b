"""Differences between arms on the same seeds and the same test samples, with confidence intervals.

The errors of two arms that are trained with the same seeds and tested on the same samples scatter together. This
common part cancels in their differences, seed by seed and sample by sample, so that smaller effects become visible.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from jaxtyping import Float

from tracegrad.metrics.columns import Column
from tracegrad.reports.arms import BASELINE
from tracegrad.reports.results import RunResult
from tracegrad.reports.samples import FILE, NotMeasuredError, Sample, read_samples
from tracegrad.reports.table import ResultsTable, Row

LEVEL = 0.95
NOT_COMPARED = ("scf", "time")  # sections of a table
# A table with more rows, such as that of a sweep, has too many pairs: each row is compared with the baseline only.
MOST_ROWS = 4
METHOD = (
    f"difference of the means over the seeds and samples that both have, [{LEVEL:.0%} confidence interval]",
    "seeds and samples count as random and crossed: two-way analysis of variance of the differences of single "
    "samples, Student's t with Satterthwaite's degrees of freedom; marked 'seeds': over seeds only, because the "
    "metric is not known by sample; marked 'samples': one seed, and another seed may give another result",
    "an interval that contains 0 shows no difference, which does not prove that there is none; the intervals are "
    "not corrected for their number: where there is no difference, one interval in 20 excludes 0 by chance",
)


@dataclass(frozen=True)
class Interval:
    """A mean and the limits of its confidence interval (None for a single number)."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Difference:
    """The difference of one metric between two arms.

    Attributes:
        column: the metric.
        interval: mean difference and its confidence interval, in the unit of the column.
        seeds: number of seeds that both arms have.
        samples: number of test samples that all runs have; 1 where the metric is not known sample by sample.
    """

    column: Column
    interval: Interval
    seeds: int
    samples: int

    @property
    def finding(self) -> str:
        """What the interval shows about the first arm: "better", "worse", "no difference shown", ..."""
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
        """The random effects that the interval accounts for: "seeds and samples", "seeds" or "samples"."""
        if self.samples == 1:
            return "seeds"
        return "samples" if self.seeds == 1 else "seeds and samples"


@dataclass(frozen=True)
class ArmPair:
    """Two arms of a table and their differences (first minus second), by the key of the column."""

    first: Row
    second: Row
    differences: dict[str, Difference]

    @property
    def label(self) -> str:
        """The difference in words, such as "QHNet+TraceGrad - QHNet"."""
        return f"{self.first.label} - {self.second.label}"


def crossed_interval(differences: Float[np.ndarray, "seeds samples"], level: float = LEVEL) -> Interval:
    """Mean of d[s, i] = m + a[s] + b[i] + e[s, i] and its interval, with random effects of seeds s and samples i.

    Two-way analysis of variance without replication: with the mean squares MS of the seeds, the samples and the
    residual e,

        Var(mean) = (MS_seeds + MS_samples - MS_residual) / (seeds samples),

    where MS_seeds and MS_samples are raised to MS_residual if they are smaller (a variance component cannot be
    negative). The degrees of freedom of this sum follow Satterthwaite, Biometrics Bulletin 2, 110 (1946). With one
    seed or one sample this is Student's interval over the others. A single number has no interval.
    """
    from scipy.special import stdtrit  # here: it takes long to import

    seeds, samples = differences.shape
    mean = float(differences.mean())
    if seeds * samples == 1 or not math.isfinite(mean):
        return Interval(mean, None, None)
    seed_effects, sample_effects = differences.mean(1) - mean, differences.mean(0) - mean
    residuals = differences - mean - seed_effects[:, None] - sample_effects[None, :]
    of_seeds = _mean_square(samples * (seed_effects**2).sum(), seeds - 1)
    of_samples = _mean_square(seeds * (sample_effects**2).sum(), samples - 1)
    of_residuals = _mean_square((residuals**2).sum(), (seeds - 1) * (samples - 1))
    if of_residuals.freedom:
        of_seeds = replace(of_seeds, value=max(of_seeds.value, of_residuals.value))
        of_samples = replace(of_samples, value=max(of_samples.value, of_residuals.value))
    variance = of_seeds.value + of_samples.value - of_residuals.value
    if variance <= 0:
        return Interval(mean, mean, mean)
    freedom = variance**2 / sum(
        square.value**2 / square.freedom for square in (of_seeds, of_samples, of_residuals) if square.freedom
    )
    half = float(stdtrit(freedom, (1 + level) / 2)) * math.sqrt(variance / (seeds * samples))
    return Interval(mean, mean - half, mean + half)


@dataclass(frozen=True)
class _MeanSquare:
    """A sum of squares divided by its degrees of freedom; 0 for an effect without degrees of freedom."""

    value: float
    freedom: int


def _mean_square(total: float, freedom: int) -> _MeanSquare:
    return _MeanSquare(total / freedom if freedom else 0.0, freedom)


def paired_differences(table: ResultsTable) -> list[ArmPair]:
    """The differences between every two arms of a table, over the seeds that both have.

    In a table of more than `MOST_ROWS` rows, each row is compared with the plain backbone only (or, without one,
    with the first row).

    Raises:
        ResultsError: a table of samples is damaged.
    """
    rows = table.arms
    columns = [c for c in table.columns if c.panel not in NOT_COMPARED and c.lower_is_better is not None]
    measured = {run.directory: _RunValues(run, columns) for row in rows for run in row.runs}
    pairs = []
    for first, second in _order(rows):
        of_first, of_second = ({run.repetition_key: run for run in row.runs} for row in (first, second))
        couples = [
            (measured[run.directory], measured[of_second[key].directory])
            for key, run in of_first.items()
            if key in of_second
        ]
        differences = {column.key: _difference(column, couples) for column in columns} if couples else {}
        known = {key: difference for key, difference in differences.items() if difference is not None}
        if known:
            pairs.append(ArmPair(first, second, known))
    return pairs


def _order(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    if len(rows) <= MOST_ROWS:
        return [(first, second) for second, first in combinations(rows, 2)]
    reference = next((row for row in rows if row.arm == BASELINE), rows[0])
    return [(row, reference) for row in rows if row is not reference]


class _RunValues:
    """The values of a run for each column: sample by sample where it wrote them, and over the whole test set."""

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
        """The values of a column for the samples of its subset; None where they are not known by sample."""
        name, _, subset = column.key.removeprefix("test/").partition("/")
        if name not in self.columns:
            return None
        values = zip(self.samples, self.columns[name].tolist(), strict=True)
        return {sample: value for sample, value in values if sample.subset == subset}


def _difference(column: Column, couples: Sequence[tuple[_RunValues, _RunValues]]) -> Difference | None:
    by_sample = [(one.of(column), other.of(column)) for one, other in couples]
    if all(one and other for one, other in by_sample):
        tables = [values for couple in by_sample for values in couple if values]
        common = [sample for sample in tables[0] if all(sample in values for values in tables)]
        # MAE_nondiag does not exist for a single atom: NaN in every run. NaN in some runs only must stay visible.
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
