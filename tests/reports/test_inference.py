"""Inference times in tables: how they were measured, and the slowdown by TraceGrad here and in the paper."""

import json

import pytest

from experiments.report import make_report
from experiments.reporting.figures import figures
from tests.run_directories import paper_result, result, write_run
from tracegrad.errors import TraceGradError
from tracegrad.reports.comparison import results_table
from tracegrad.reports.grid import paper_grid, table_grids
from tracegrad.reports.inference import with_inference
from tracegrad.reports.paper import block_cost, compare_with_paper
from tracegrad.reports.results import InferenceProtocol, collect_results

SECONDS, BATCH = "test/inference_seconds", "test/inference_batch_size"
CHEAP = {"samples": 10, "repeats": 5, "batch_size": 1, "device": "AMD EPYC (1 thread)"}
PAPER = {"samples": 90, "repeats": 50, "batch_size": 1, "device": "NVIDIA H200"}


def timed(content, seconds, protocol):
    metrics = {**content["metrics"], SECONDS: seconds, BATCH: 1.0}
    return {**content, "metrics": metrics, "inference": protocol}


def captions(tmp_path, *contents):
    for i, content in enumerate(contents):
        write_run(tmp_path / str(i), content, files=False)
    (table,) = results_table(collect_results(tmp_path))
    return next(grid for grid in table_grids(table) if grid.title.endswith("inference time")).captions


def test_the_block_costs_in_the_paper_what_it_says():
    # Appendix I: 0.248 / 0.233 s on QS, 0.187 / 0.174 s on QD.
    assert block_cost() == pytest.approx((100 * (0.248 / 0.233 - 1), 100 * (0.187 / 0.174 - 1)))


def test_the_protocol_and_the_cost_are_printed(tmp_path):
    none, full = result("none", 0, 5.0), result("tracegrad", 0, 4.0)
    assert captions(tmp_path, timed(none, 0.5, CHEAP), timed(full, 1.5, CHEAP)) == (
        "each of 10 samples timed 5 times, batch size 1, on AMD EPYC (1 thread)",
        "time of QHNet+TraceGrad against QHNet: +200.0 % here, +6.4 to +7.5 % in the paper "
        "(Appendix I: Nvidia RTX A6000)",
    )


@pytest.mark.parametrize("other", [PAPER, {**CHEAP, "repeats": 6}, {**CHEAP, "device": "Apple M4"}, None])
def test_times_of_different_protocols_are_not_compared(tmp_path, other):
    none, full = result("none", 0, 5.0), result("tracegrad", 0, 4.0)
    lines = captions(tmp_path, timed(none, 0.5, CHEAP), timed(full, 1.5, other))
    assert len(lines) == 3
    assert lines[0] == "QHNet: each of 10 samples timed 5 times, batch size 1, on AMD EPYC (1 thread)"
    assert lines[1].startswith("QHNet+TraceGrad: ")
    assert ("not recorded" in lines[1]) == (other is None)
    assert lines[2] == "these times were measured in different ways and do not compare"


def test_seeds_of_one_row_may_differ_in_their_protocol(tmp_path):
    contents = [timed(result("none", seed, 5.0), 0.5, how) for seed, how in ((0, CHEAP), (1, PAPER))]
    lines = captions(tmp_path, *contents)
    assert [line.partition(":")[0] for line in lines[:2]] == ["QHNet", "QHNet"]
    assert lines[2] == "these times were measured in different ways and do not compare"


def test_times_of_appendix_i_stand_beside_the_paper(tmp_path):
    for arm, seconds in (("none", 0.2), ("tracegrad", 0.3)):
        content = timed(paper_result("MG", arm, 42, {"test/h_mae": 1.0}), seconds, PAPER)
        write_run(tmp_path / arm, content, files=False)
    tables, _ = compare_with_paper(results_table(collect_results(tmp_path)))
    grid = paper_grid(next(table for table in tables if table.paper.number == "I"))
    assert "MG: each of 90 samples timed 50 times, batch size 1, on NVIDIA H200" in grid.captions
    assert (
        "MG: time of DeepH-E3+TraceGrad against DeepH-E3: +50.0 % here, +6.9 % in the paper" in grid.captions
    )


@pytest.fixture
def evaluated(tmp_path):
    """A run that was timed in its test and again with callbacks=appendix_i, and one that was timed only once."""
    content = timed(result("none", 0, 5.0), 0.5, CHEAP)
    directory = write_run(tmp_path / "none", content, files=False)
    write_run(tmp_path / "grad", timed(result("grad", 0, 5.0), 0.7, CHEAP), files=False)
    (directory / "evaluation_test_best").mkdir()
    path = directory / "evaluation_test_best" / "evaluation.json"
    later = timed(result("none", 0, 99.0), 0.25, PAPER)
    path.write_text(json.dumps(later))
    return tmp_path, path, later


def test_times_of_a_later_evaluation_replace_those_of_the_test(evaluated):
    root, _, _ = evaluated
    runs, notes = with_inference(collect_results(root))
    assert notes == []
    assert [(run.arm, run.metrics[SECONDS], run.metrics["test/h_mae"]) for run in runs] == [
        ("grad", 0.7, 5.0),
        ("none", 0.25, 5.0),
    ]
    assert runs[1].inference == InferenceProtocol(**PAPER)


def test_equivariance_errors_of_a_later_evaluation_are_added(evaluated):
    """With what its columns say; the times stay those of the test, and a figure shows all rows."""
    root, path, _ = evaluated
    columns = [
        {
            "key": f"equivariance_{angle}",
            "name": f"up to {angle} deg",
            "lower_is_better": None,
            "panel": "turned",
        }
        for angle in ("10", "h1_10")
    ]
    later = result("none", 0, 99.0, columns=columns)
    later["metrics"] |= {"test/equivariance_10": 0.4, "test/equivariance_h1_10": 1e-14}
    path.write_text(json.dumps(later))
    runs, notes = with_inference(collect_results(root))
    assert notes == []
    assert (runs[1].metrics["test/equivariance_10"], runs[1].metrics[SECONDS]) == (0.4, 0.5)
    (table,) = tables = results_table(runs)
    assert any(grid.title.endswith("turned") for grid in table_grids(table))
    (axes,) = figures(tables, [[]], [])["equivariance"].axes
    lines = {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}
    assert lines == {"QHNet": [0.4], "QHNet, H1": [1e-12]}
    path.write_text(json.dumps({**later, "step": 1300}))
    _, (note,) = with_inference(collect_results(root))
    assert note.startswith(f"{path}: its equivariance errors are of another checkpoint or other data")


@pytest.mark.parametrize("change", [{"step": 1300}, {"split_hash": "f" * 16}, {"counts": {"test": 1}}])
def test_times_of_another_checkpoint_or_data_are_left_out_with_a_note(evaluated, change):
    root, path, later = evaluated
    path.write_text(json.dumps({**later, **change}))
    runs, (note,) = with_inference(collect_results(root))
    assert runs[1].metrics[SECONDS] == 0.5
    assert note.startswith(f"{path}: its inference times are of another checkpoint or other data")


def test_a_damaged_evaluation_is_named(evaluated):
    root, path, _ = evaluated
    path.write_text("{")
    with pytest.raises(TraceGradError, match=r"evaluation\.json: not readable"):
        make_report(root)


@pytest.mark.parametrize(
    "protocol", [3, {"samples": 1}, {**CHEAP, "repeats": "five"}, {**CHEAP, "device": 1}]
)
def test_a_damaged_protocol_is_named(tmp_path, protocol):
    write_run(tmp_path / "run", timed(result("none", 0, 5.0), 0.5, protocol), files=False)
    with pytest.raises(TraceGradError, match=r"results\.json: inference"):
        collect_results(tmp_path)
