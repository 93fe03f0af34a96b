import math

import numpy as np
import pytest

from tests.run_directories import SAMPLES, crystal_result, write_blocks, write_run, write_samples
from tracegrad.errors import ConfigError
from tracegrad.reports.challenge import challenge_metrics, find_challenge
from tracegrad.reports.results import ResultsError
from tracegrad.reports.samples import NotMeasuredError


@pytest.fixture
def baseline(tmp_path):
    return write_run(tmp_path / "none", crystal_result("none", 0, 10.0))


@pytest.fixture
def other(tmp_path):
    return write_run(tmp_path / "grad", crystal_result("grad", 0, 8.0))


def test_the_worst_samples_and_blocks_of_the_baseline_are_found(baseline):
    challenge = find_challenge(baseline)
    assert (challenge.baseline, challenge.worst) == (baseline, 1)
    plain, twisted = challenge.subsets
    assert (plain.subset, plain.block, plain.block_mae) == ("", ("2s", "1p"), 15)
    assert [(s.sample.row, s.sample.name, s.h_mae) for s in plain.samples] == [(6, "shift_6", 11)]
    assert (twisted.subset, twisted.block, twisted.block_mae) == ("twisted", ("1d", "1d"), 25)
    assert [(s.sample.row, s.sample.name, s.h_mae) for s in twisted.samples] == [(17, "twist_17", 21)]


def test_every_run_is_measured_where_the_baseline_is_worst(baseline, other):
    challenge = find_challenge(baseline)
    assert challenge_metrics(baseline, challenge) == {
        "test/h_mae_cha_s": 11,
        "test/h_mae_cha_b": 15,
        "test/h_mae_cha_s/twisted": 21,
        "test/h_mae_cha_b/twisted": 25,
    }
    # The largest errors of the other run are elsewhere: 9 meV for shift_3, 13 meV for 1s x 1s.
    assert challenge_metrics(other, challenge) == {
        "test/h_mae_cha_s": 7,
        "test/h_mae_cha_b": 8,
        "test/h_mae_cha_s/twisted": 15,
        "test/h_mae_cha_b/twisted": 16,
    }


def test_more_samples_are_averaged(baseline, other):
    challenge = find_challenge(baseline, 2)
    assert [entry.sample.name for entry in challenge.subsets[0].samples] == ["shift_6", "shift_3"]
    assert challenge_metrics(other, challenge)["test/h_mae_cha_s"] == 8


def test_equal_errors_do_not_depend_on_the_order_of_the_file(baseline):
    rows = [(6, "b", "", 4.0), (3, "a", "", 4.0), (9, "c", "", 3.0)]
    write_samples(baseline, rows)
    assert find_challenge(baseline, 2).subsets[0].samples[0].sample.name == "a"
    write_blocks(baseline / "block_mae.csv", np.ones((6, 6)))
    assert find_challenge(baseline).subsets[0].block == ("1s", "1s")


def test_blocks_that_no_sample_has_are_never_the_worst(baseline):
    values = np.full((6, 6), np.nan)
    values[2, 4] = 0.5
    write_blocks(baseline / "block_mae.csv", values)
    assert find_challenge(baseline).subsets[0].block == ("3s", "2p")


def test_a_diverged_run_is_not_finite_and_no_baseline(baseline, other):
    write_samples(other, [(*sample, math.nan) for sample in SAMPLES])
    assert math.isnan(challenge_metrics(other, find_challenge(baseline))["test/h_mae_cha_s"])
    with pytest.raises(NotMeasuredError, match=r"test_samples\.csv: the error of 'shift_3' is nan; choose"):
        find_challenge(other)
    write_blocks(baseline / "block_mae.csv", np.full((6, 6), np.nan))
    with pytest.raises(NotMeasuredError, match=r"block_mae\.csv: no block has a finite error"):
        find_challenge(baseline)


@pytest.mark.parametrize("name", ["test_samples.csv", "block_mae.csv", "block_mae-twisted.csv"])
def test_a_run_without_its_errors_is_named(baseline, other, name):
    challenge = find_challenge(baseline)
    for directory in (baseline, other):
        (directory / name).unlink()
    for call in (lambda: find_challenge(baseline), lambda: challenge_metrics(other, challenge)):
        with pytest.raises(NotMeasuredError, match=f"{name} is missing; train with callbacks.test_report"):
            call()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(3, "shift_3", "", 1.0)], "the test set has no sample 'shift_6' in row 6"),
        ([(5, "shift_6", "", 1.0)], "the test set has no sample 'shift_6' in row 6"),
        ([(6, "shift_6", "", 1.0)], "the twisted test set has no sample 'twist_17' in row 17"),
        ([(6, "shift_6", "twisted", 1.0)], "the test set has no sample 'shift_6' in row 6"),
    ],
)
def test_other_samples_are_other_data(baseline, other, rows, message):
    write_samples(other, rows)
    with pytest.raises(ResultsError, match="different data") as caught:
        challenge_metrics(other, find_challenge(baseline))
    assert message in str(caught.value)
    assert str(other) in str(caught.value)
    assert str(baseline) in str(caught.value)


def test_other_shells_are_another_basis(baseline, other):
    (other / "block_mae.csv").write_text("shell,1s,2s\n1s,1,2\n2s,3,4\n")
    with pytest.raises(ResultsError, match=r"no block 2s x 1p, which .*different bases"):
        challenge_metrics(other, find_challenge(baseline))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no sample"),
        ("row,name,subset,h_mae\n", "holds no sample"),
        ("row,name,subset\n1,a,\n", "not a readable table of samples"),
        ("row,name,subset,h_mae\nx,a,,1\n", "not a readable table of samples"),
        ("row,name,subset,h_mae\n1,a\n", "not a readable table of samples"),
        ("row,name,subset,h_mae\n1,a,,1\n2,a,,1\n", "2 samples of the test set are named 'a'"),
    ],
)
def test_a_damaged_table_of_samples_is_named(baseline, text, message):
    path = baseline / "test_samples.csv"
    path.write_text(text)
    with pytest.raises(ResultsError) as caught:
        find_challenge(baseline)
    assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    ("worst", "message"), [(0, "worst is 0; at least 1"), (3, "worst is 3, but the test set has 2 samples")]
)
def test_a_wrong_number_of_samples(baseline, worst, message):
    with pytest.raises(ConfigError, match=message):
        find_challenge(baseline, worst)
