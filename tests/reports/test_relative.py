import math

import numpy as np
import pytest
from scipy import stats

from tracegrad.errors import TraceGradError
from tracegrad.reports.relative import relative_change


def test_the_interval_is_that_of_a_paired_t_test_of_logarithms():
    errors, references = [8.0, 9.0, 7.5, 10.0], [10.0, 10.5, 11.0, 12.0]
    change = relative_change(errors, references)
    test = stats.ttest_rel(np.log(errors), np.log(references))
    interval = test.confidence_interval(0.95)
    assert change.mean == pytest.approx(stats.gmean(np.divide(errors, references)) - 1, rel=1e-12)
    assert change.low == pytest.approx(math.exp(interval.low) - 1, rel=1e-12)
    assert change.high == pytest.approx(math.exp(interval.high) - 1, rel=1e-12)
    assert change.by_seed == pytest.approx([-0.2, 9 / 10.5 - 1, 7.5 / 11 - 1, 10 / 12 - 1])
    assert (change.finding == "better") == (test.pvalue < 0.05)


def test_the_detectable_reduction_is_shown_in_four_of_five_studies():
    rng = np.random.default_rng(0)
    spread, seeds = 0.1, 20
    detectable = relative_change(
        np.exp(stats.norm.ppf((np.arange(seeds) + 0.5) / seeds) * spread).tolist(), [1.0] * seeds
    ).detectable
    logs = rng.normal(math.log(1 - detectable), spread * 0.98, (20_000, seeds))
    shown = stats.ttest_1samp(logs, 0, axis=1).pvalue < 0.05
    assert shown.mean() == pytest.approx(0.8, abs=0.03)


def test_one_seed_has_no_interval():
    change = relative_change([1.0], [2.0])
    assert (change.mean, change.low, change.high, change.detectable) == (-0.5, None, None, None)
    assert change.finding == "one seed"


@pytest.mark.parametrize(
    ("errors", "references"), [([], []), ([1.0], [1.0, 2.0]), ([0.0], [1.0]), ([math.nan], [1.0])]
)
def test_what_has_no_ratio_is_refused(errors, references):
    with pytest.raises(TraceGradError, match="relative change needs"):
        relative_change(errors, references)
