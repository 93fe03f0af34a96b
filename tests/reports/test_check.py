import math

import pytest

from tests.run_directories import paper_result, result, write_run
from tracegrad.errors import ConfigError
from tracegrad.reports.check import CheckError, paper_outcomes, read_checks, require, run_checks
from tracegrad.reports.comparison import results_table
from tracegrad.reports.paper import compare_with_paper
from tracegrad.reports.results import collect_results

H = "test/h_mae"


@pytest.fixture
def tables(tmp_path):
    for arm, value in (("none", 10.0), ("grad", 8.0)):
        for seed in (0, 1):
            write_run(tmp_path / f"{arm}_{seed}", result(arm, seed, value + seed), files=False)
    return results_table(collect_results(tmp_path))


def outcomes(tmp_path, tables, entries):
    path = tmp_path / "tolerances.yaml"
    path.write_text(f"checks:\n{entries}")
    return run_checks(read_checks(path), tables)


@pytest.mark.parametrize(
    ("entry", "passed"),
    [
        ("expected: 8.5, tolerance: 0.01", True),
        ("expected: 8.6, tolerance: 0.05", False),
        ("expected: 9.0, relative: 0.06", True),
        ("expected: 9.0, relative: 0.05", False),
        ("below: 8.5", True),
        ("below: 8.4", False),
        ("above: 8.5, below: 9", True),
        ("above: 8.6", False),
        ("quantity: change, expected: -19.05, tolerance: 0.01", True),  # 8.5 / 10.5 - 1
        ("quantity: change, below: -20", False),
        ("quantity: std, below: 0.7", False),  # 1 / sqrt(2)
    ],
)
def test_numbers_are_compared_with_their_bounds(tmp_path, tables, entry, passed):
    (found,) = outcomes(tmp_path, tables, f"- {{arm: grad, metric: {H}, experiment: qh9_demo, {entry}}}")
    assert found.passed is passed
    assert found.text.startswith("ok: QD, geometry split" if passed else "FAILED: QD, geometry split")


@pytest.mark.parametrize(
    "entry",
    [
        f"arm: trace, metric: {H}",
        "arm: grad, metric: test/eps_mae",
        f"arm: grad, metric: {H}, database: QS",
        f"arm: none, metric: {H}, quantity: change",  # the baseline itself has none
    ],
)
def test_a_missing_number_fails(tmp_path, tables, entry):
    (found,) = outcomes(tmp_path, tables, f"- {{{entry}, below: 100}}")
    assert found.value is None
    assert "= missing, expected at most 100" in found.text
    with pytest.raises(CheckError, match=r"1 of 1 checks failed: .*missing"):
        require([found])


def test_a_number_that_is_not_finite_fails(tmp_path):
    write_run(tmp_path / "run", result("none", 0, math.nan), files=False)
    tables = results_table(collect_results(tmp_path))
    (found,) = outcomes(tmp_path, tables, f"- {{arm: none, metric: {H}, below: 100}}")
    assert not found.passed


def test_several_arms_make_several_checks(tmp_path, tables):
    found = outcomes(tmp_path, tables, f"- {{arm: [none, grad, trivial], metric: {H}, below: 20}}")
    assert [outcome.passed for outcome in found] == [True, True, False]
    with pytest.raises(CheckError, match=r"1 of 3 checks failed: .*trivial, test/h_mae = 123"):
        require(found)
    require(found[:2])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no list 'checks'"),
        ("checks: []", "holds no list 'checks'"),
        ("checks: [3", "not readable as YAML"),
        ("checks: [3]", "entry 1: 3; an entry needs arm and metric"),
        ("checks: [{arm: none, metric: a, bellow: 3}]", "an entry needs arm and metric, and may have"),
        ("checks: [{arm: none, metric: a}]", "give expected with tolerance or relative"),
        ("checks: [{arm: none, metric: a, tolerance: 1}]", "give expected with tolerance or relative"),
        ("checks: [{arm: none, metric: a, expected: 1}]", "expected needs either tolerance or relative"),
        (
            "checks: [{arm: none, metric: a, expected: 1, tolerance: 1, relative: 1}]",
            "expected needs either",
        ),
        ("checks: [{arm: none, metric: a, below: high}]", "below is 'high'; a number is needed"),
        ("checks: [{arm: none, metric: a, below: 1, quantity: x}]", "quantity is 'x'; choose one of"),
    ],
)
def test_a_file_that_is_not_understood(tmp_path, text, message):
    path = tmp_path / "tolerances.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_checks(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def compared(directory, values):
    for (database, arm), metrics in values.items():
        write_run(directory / f"{database}_{arm}", paper_result(database, arm, 0, metrics), files=False)
    return compare_with_paper(results_table(collect_results(directory)))[0]


def test_the_paper_is_held_within_a_fraction(tmp_path):
    full = {H: 2.0, f"{H}_diag": 3.0, f"{H}_nondiag": 1.9, "test/eps_mae": 17.0, "test/psi_cosine": 0.94}
    # 1.191 * 1.1 = 1.3101; Sim(psi) was not measured.
    trace_grad = {H: 1.32, f"{H}_diag": 2.1, f"{H}_nondiag": 1.1, "test/eps_mae": 8.0}
    trace_grad["test/inference_seconds"] = 100.0  # of another machine
    found = paper_outcomes(compared(tmp_path, {("QS", "none"): full, ("QS", "tracegrad"): trace_grad}), 0.1)
    assert len(found) == 10
    failed = [outcome.text for outcome in found if not outcome.passed]
    assert failed == [
        "FAILED: QS, QHNet+TraceGrad, MAE^H_all (Table 2) = 1.32, expected 1.0719 to 1.3101",
        "FAILED: QS, QHNet+TraceGrad, Sim(psi) (Table 2) = missing, expected 0.8532 to 1.0428",
    ]


def test_an_arm_of_the_paper_that_was_not_run_is_missing(tmp_path):
    found = paper_outcomes(compared(tmp_path, {("MG", "none"): {H: 0.251}}), 0.1)
    assert [outcome.passed for outcome in found if outcome.name.startswith("MG, DeepH-E3+TraceGrad")] == [
        False
    ] * 3


def test_nothing_to_check_is_no_success():
    with pytest.raises(CheckError, match="no run is on data of the paper"):
        require([])
