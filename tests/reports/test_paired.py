"""Paired differences: the interval against literal formulas, simulations and a bootstrap; pairs of runs."""

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from tests.run_directories import crystal_result, result, write_molecules, write_run, write_table
from tracegrad.metrics.columns import HAMILTONIAN
from tracegrad.reports.comparison import results_table
from tracegrad.reports.grid import paired_grid
from tracegrad.reports.paired import Difference, Interval, crossed_interval, paired_differences
from tracegrad.reports.results import ResultsError, collect_results

H = "test/h_mae"


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def simulated(rng, seeds, samples, of_seed, of_sample, rest, mean=0.0):
    a = of_seed * rng.standard_normal((seeds, 1))
    b = of_sample * rng.standard_normal((1, samples))
    return mean + a + b + rest * rng.standard_normal((seeds, samples))


def literal_interval(d, level):
    """The two-way analysis of variance with loops, as in a textbook."""
    seeds, samples = d.shape
    mean = sum(d[s, i] for s in range(seeds) for i in range(samples)) / (seeds * samples)
    by_seed = [sum(d[s, i] for i in range(samples)) / samples for s in range(seeds)]
    by_sample = [sum(d[s, i] for s in range(seeds)) / seeds for i in range(samples)]
    rest = sum(
        (d[s, i] - by_seed[s] - by_sample[i] + mean) ** 2 for s, i in product(range(seeds), range(samples))
    ) / ((seeds - 1) * (samples - 1))
    one = max(samples * sum((m - mean) ** 2 for m in by_seed) / (seeds - 1), rest)
    two = max(seeds * sum((m - mean) ** 2 for m in by_sample) / (samples - 1), rest)
    total = one + two - rest
    parts = one**2 / (seeds - 1) + two**2 / (samples - 1) + rest**2 / ((seeds - 1) * (samples - 1))
    half = stats.t.ppf((1 + level) / 2, total**2 / parts) * math.sqrt(total / (seeds * samples))
    return mean, mean - half, mean + half


@pytest.mark.parametrize("spreads", [(1.0, 0.5, 0.2), (0.0, 0.0, 1.0), (0.0, 2.0, 0.1)])
@pytest.mark.parametrize("shape", [(2, 3), (3, 40), (10, 7)])
def test_the_interval_is_that_of_the_analysis_of_variance(rng, spreads, shape):
    d = simulated(rng, *shape, *spreads, mean=0.7)
    interval = crossed_interval(d)
    expected = literal_interval(d, 0.95)
    np.testing.assert_allclose((interval.mean, interval.low, interval.high), expected, rtol=1e-10)


def test_one_seed_or_one_sample_is_student(rng):
    d = rng.standard_normal((1, 9)) + 0.3
    for values in (d, d.T):
        interval = crossed_interval(values)
        expected = stats.ttest_1samp(d.ravel(), 0).confidence_interval(0.95)
        np.testing.assert_allclose((interval.low, interval.high), (expected.low, expected.high), rtol=1e-10)
    assert crossed_interval(np.array([[2.0]])) == Interval(2.0, None, None)
    assert crossed_interval(np.full((3, 4), -1.0)) == Interval(-1.0, -1.0, -1.0)
    assert crossed_interval(np.array([[1.0, np.nan]])).low is None


@pytest.mark.parametrize(
    ("spreads", "most"),
    # Without an effect the interval is a little too long, because its variance is not allowed to be negative.
    [((1.0, 0.0, 0.5), 0.97), ((0.3, 1.0, 0.5), 0.98), ((1.0, 1.0, 1.0), 0.97), ((0.0, 0.0, 1.0), 1.0)],
)
def test_the_interval_holds_the_truth_as_often_as_it_says(rng, spreads, most):
    found = [crossed_interval(simulated(rng, 3, 20, *spreads)) for _ in range(1500)]
    covered = np.mean([i.low <= 0 <= i.high for i in found])
    assert 0.92 < covered <= most


def test_of_many_seeds_and_samples_it_is_the_interval_of_a_bootstrap(rng):
    d = simulated(rng, 60, 80, 1.0, 1.0, 1.0)
    means = []
    for _ in range(4000):  # seeds and samples are resampled, each with all of its values
        rows, columns = rng.integers(60, size=60), rng.integers(80, size=80)
        means.append(d[np.ix_(rows, columns)].mean())
    low, high = np.quantile(means, [0.025, 0.975])
    interval = crossed_interval(d)
    width = interval.high - interval.low
    assert abs(interval.low - low) < 0.08 * width
    assert abs(interval.high - high) < 0.08 * width


def table_of(directory):
    (table,) = results_table(collect_results(directory))
    return table


@pytest.fixture
def noisy(tmp_path, rng):
    """Two arms whose errors scatter by 30 % over samples and 10 % over seeds; one is always 5 % lower."""
    levels = 10 * np.exp(0.3 * rng.standard_normal(50))
    for seed in (0, 1, 2):
        base = levels * np.exp(0.1 * rng.standard_normal())
        for arm, factor in (("none", 1.0), ("tracegrad", 0.95)):
            errors = factor * base * np.exp(0.002 * rng.standard_normal(50))
            directory = write_run(tmp_path / f"{arm}_{seed}", result(arm, seed, float(errors.mean())))
            write_molecules(directory, errors)
    return tmp_path


def test_pairing_shows_what_the_spread_hides(noisy):
    table = table_of(noisy)
    none, tracegrad = table.arms
    assert none.cells[H].std > none.cells[H].mean - tracegrad.cells[H].mean  # the arms overlap
    (pair,) = paired_differences(table)
    difference = pair.differences[H]
    assert pair.label == "QHNet+TraceGrad - QHNet"
    assert (difference.seeds, difference.samples, difference.over) == (3, 50, "seeds and samples")
    assert difference.interval.mean == pytest.approx(tracegrad.cells[H].mean - none.cells[H].mean)
    assert difference.interval.high < 0
    assert difference.finding == "better"
    text = paired_grid(table, [pair]).lines[0].cells[0]
    assert text.value.startswith("-0.")
    assert text.extra == "better"


def test_equal_arms_show_no_difference(tmp_path, rng):
    for seed in (0, 1):
        for arm in ("none", "grad"):
            errors = 5 + 0.1 * rng.standard_normal(30)
            directory = write_run(tmp_path / f"{arm}_{seed}", result(arm, seed, float(errors.mean())))
            write_molecules(directory, errors)
    (pair,) = paired_differences(table_of(tmp_path))
    assert {d.finding for d in pair.differences.values()} == {"no difference shown"}


def test_only_common_seeds_and_repetitions_are_paired(noisy):
    write_run(noisy / "none_7", result("none", 7, 500.0))
    write_run(noisy / "tracegrad_0_again", result("tracegrad", 0, 700.0, repetition=1))
    (pair,) = paired_differences(table_of(noisy))
    assert pair.differences[H].seeds == 3
    assert pair.differences[H].interval.mean < 0


def test_one_seed_says_that_it_is_one(tmp_path):
    for arm, factor in (("none", 1.0), ("grad", 0.9)):
        directory = write_run(tmp_path / arm, result(arm, 0, factor))
        write_molecules(directory, factor * np.array([1.0, 2.0, 3.0, 2.0]))
    table = table_of(tmp_path)
    (pair,) = paired_differences(table)
    assert pair.differences[H].over == "samples"
    assert paired_grid(table, [pair]).lines[0].cells[0].extra.endswith("(samples)")


def test_metrics_without_samples_are_paired_over_seeds(tmp_path):
    for arm, values in (("none", (1.0, 2.0, 3.0)), ("grad", (0.5, 1.6, 2.4))):
        for seed, value in enumerate(values):
            write_run(tmp_path / f"{arm}_{seed}", result(arm, seed, value), files=False)
    (pair,) = paired_differences(table_of(tmp_path))
    difference = pair.differences[H]
    expected = stats.ttest_rel((0.5, 1.6, 2.4), (1.0, 2.0, 3.0)).confidence_interval(0.95)
    assert difference.over == "seeds"
    found = (difference.interval.low, difference.interval.high)
    np.testing.assert_allclose(found, (expected.low, expected.high))


def test_higher_may_be_better(tmp_path):
    for arm, values in (("none", (0.90, 0.91, 0.92)), ("grad", (0.95, 0.96, 0.972))):
        for seed, value in enumerate(values):
            content = result(arm, seed, 1.0)
            content["metrics"]["test/psi_cosine"] = value
            write_run(tmp_path / f"{arm}_{seed}", content, files=False)
    (pair,) = paired_differences(table_of(tmp_path))
    assert pair.differences["test/psi_cosine"].interval.low > 0
    assert pair.differences["test/psi_cosine"].finding == "better"


def test_subsets_have_their_own_samples(tmp_path):
    for arm in ("none", "grad"):
        for seed in (0, 1):
            write_run(tmp_path / f"{arm}_{seed}", crystal_result(arm, seed, 10.0 + seed - (arm == "grad")))
    (pair,) = paired_differences(table_of(tmp_path))
    assert pair.differences[f"{H}/twisted"].interval.mean == pytest.approx(-2)
    assert pair.differences[H].interval.mean == pytest.approx(-1)
    assert (pair.differences[H].samples, pair.differences[f"{H}_cha_b"].samples) == (2, 1)


def test_a_missing_block_is_left_out_and_a_diverged_sample_shows(tmp_path):
    head = ["row", "name", "subset", "h_mae", "h_mae_diag"]
    for arm, last in (("none", 4.0), ("grad", "nan")):
        directory = write_run(tmp_path / arm, result(arm, 0, 1.0))
        write_table(
            directory / "test_samples.csv",
            head,
            [(0, "a", "", 1.0, ""), (1, "b", "", last, 1.0), (2, "c", "", 2, 3)],
        )
    (pair,) = paired_differences(table_of(tmp_path))
    assert pair.differences[H].finding == "not finite"
    assert pair.differences[f"{H}_diag"].samples == 2  # row 0 is a single atom, which has no such error


def test_of_many_rows_each_is_compared_with_the_baseline(tmp_path):
    for i in range(6):
        content = result("none" if i == 0 else "grad", 0, 1.0 + i, variant=f"loss.weight={i}")
        write_run(tmp_path / str(i), content, files=False)
    pairs = paired_differences(table_of(tmp_path))
    assert len(pairs) == 5
    assert {pair.second.arm for pair in pairs} == {"none"}


def test_damaged_samples_are_named(noisy):
    path = noisy / "none_1" / "test_samples.csv"
    path.write_text(path.read_text().replace("H2O,3,", "H2O,3,x"))
    with pytest.raises(ResultsError, match=str(path)):
        paired_differences(table_of(noisy))


def test_findings():
    for interval, finding in (
        (Interval(-1.0, -2.0, -0.5), "better"),
        (Interval(1.0, 0.5, 2.0), "worse"),
        (Interval(1.0, 0.0, 2.0), "no difference shown"),
        (Interval(0.0, 0.0, 0.0), "no difference shown"),
        (Interval(1.0, None, None), "no interval"),
        (Interval(math.nan, None, None), "not finite"),
    ):
        assert Difference(HAMILTONIAN[0], interval, 2, 2).finding == finding
