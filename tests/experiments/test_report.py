import json
import sys
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from experiments import report
from experiments.report import make_report
from experiments.reporting.figures import figures
from tests import forked
from tests.run_directories import LABELS, crystal_result, paper_result, result, write_blocks, write_run
from tracegrad.errors import TraceGradError
from tracegrad.reports import web_page
from tracegrad.reports.check import read_checks
from tracegrad.reports.comparison import results_table
from tracegrad.reports.results import collect_results

TABLES = {"table.md", "table.tex", "table.csv", "table.json", "paired.csv", "report.html"}
SINGLE = {"ablation.png", "learning_curves.png", "block_mae.png"}
FIGURES = SINGLE | {"differences.png", "block_change.png"}
TWISTED = {"block_mae-twisted.png", "block_change-twisted.png"}


def ended(figures, ending):
    return {f"{Path(name).stem}{ending}.png" for name in figures}


@pytest.fixture
def runs(tmp_path):
    directory = tmp_path / "runs"
    for i, arm in enumerate(LABELS):
        for seed in (0, 1):
            write_run(directory / arm / str(seed), result(arm, seed, 5.0 - i + seed))
    return directory


def run(*arguments, cwd):
    return forked.run("experiments.report", *arguments, folder=cwd)


def names(directory):
    return {path.name for path in directory.iterdir()}


@pytest.mark.slow
def test_the_command_prints_tables_and_writes_files(runs, tmp_path):
    done = run("runs=runs", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for label in ("trivial predictor", *LABELS.values()):
        assert any(line.strip().startswith(label + " ") for line in done.stdout.splitlines())
    assert "2.500 ± 0.707*" in done.stdout
    assert "into runs/report" in done.stdout
    assert names(runs / "report") == TABLES | FIGURES
    assert names(tmp_path) == {"runs"}
    for name in FIGURES:
        with Image.open(runs / "report" / name) as image:
            image.load()
            assert image.width > 1000


@pytest.mark.slow
def test_the_report_can_be_made_again_and_elsewhere(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(
        web_page, "datetime", SimpleNamespace(now=lambda zone: datetime(2026, 1, 1, tzinfo=zone))
    )
    first = make_report(runs)
    texts = {name: (runs / "report" / name).read_bytes() for name in TABLES | FIGURES}
    second = make_report(runs)
    assert first == second
    assert {name: (runs / "report" / name).read_bytes() for name in TABLES | FIGURES} == texts
    elsewhere = make_report(runs, tmp_path / "a" / "b")
    assert {path.name for path in elsewhere.files} == names(tmp_path / "a" / "b") == TABLES | FIGURES
    assert elsewhere.notes == [
        "QD, geometry split is not compared with the paper's QD: its split is 'geometry', that of the paper 'mol'"
    ]


@pytest.mark.slow
def test_figures_of_several_tables_have_their_own_names(runs):
    write_run(runs / "qs", result("none", 0, 1.0, database_label="QS", database="s.db", split="ood"))
    write_run(runs / "other", result("none", 0, 1.0, split_hash="f" * 16))
    made = make_report(runs)
    assert len(made.tables) == 3
    expected = ended(FIGURES, "-QD_geometry-1") | ended(SINGLE, "-QD_geometry-2") | ended(SINGLE, "-QS_ood")
    assert {path.name for path in made.files} == TABLES | expected
    assert len(json.loads((runs / "report" / "table.json").read_text())["tables"]) == 3


@pytest.fixture
def crystals(tmp_path):
    directory = tmp_path / "runs"
    for arm in LABELS:
        for seed in (0, 1):
            write_run(directory / f"{arm}_seed{seed}", crystal_result(arm, seed, 10.0 + seed))
    return directory


def test_the_command_reports_crystals(crystals, tmp_path):
    done = run("runs=runs", "baseline=runs/none_seed1", "worst=2", "output=out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "worst 2 samples (s) and the worst basic block (b) of DeepH-E3, seed 1 (runs/none_seed1)" in (
        done.stdout
    )
    assert names(tmp_path / "out") == TABLES | FIGURES | TWISTED | {"challenge.json"}
    content = json.loads((tmp_path / "out" / "challenge.json").read_text())
    assert "our reading" in content["definition"]
    assert content["challenges"][0]["baseline"] == "none_seed1"
    assert [len(part["samples"]) for part in content["challenges"][0]["subsets"]] == [2, 2]


@pytest.mark.slow
def test_figures_of_crystals_and_molecules_have_their_own_names(crystals):
    write_run(crystals / "qd", result("none", 0, 1.0))
    made = make_report(crystals)
    expected = ended(FIGURES | TWISTED, "-BG_shuffle") | ended(SINGLE, "-QD_geometry")
    assert {path.name for path in made.files} == TABLES | expected | {"challenge.json"}


@pytest.mark.slow
def test_a_missing_subset_is_told(crystals):
    path = crystals / "grad_seed1" / "block_mae-twisted.csv"
    path.unlink()
    assert f"{path} is missing: DeepH-E3+Grad, seed 1 is not in the figure" in make_report(crystals).notes


def test_missing_curves_are_told_and_left_out(tmp_path):
    directory = write_run(tmp_path / "runs" / "none", result("none", 0, 5.0), files=False)
    made = make_report(tmp_path / "runs")
    assert {path.name for path in made.files} == TABLES - {"paired.csv"} | {"ablation.png"}
    assert len(made.notes) == 3
    assert made.notes[1].startswith(f"{directory / 'metrics.csv'} is missing: QHNet, seed 0")


def test_damaged_curves_are_named(runs):
    path = runs / "grad" / "1" / "metrics.csv"
    path.write_text("step,lr\nx,1\n")
    with pytest.raises(TraceGradError, match=str(path)):
        make_report(runs)


@pytest.fixture
def _undrawn(monkeypatch):
    """No figures, because the tests only need numbers."""
    monkeypatch.setattr(report, "figures", lambda *_: {})


def invoke(monkeypatch, *arguments):
    """Run the command in this process and return its exit status."""
    monkeypatch.setattr(sys, "argv", ["report.py", *map(str, arguments)])
    try:
        report.main()
    except SystemExit as end:
        return end.code or 0
    return 0


@pytest.mark.usefixtures("_undrawn")
def test_a_directory_may_stand_alone(runs, monkeypatch, capsys, tmp_path):
    odd = runs.rename(tmp_path / "a place, with = signs")
    assert invoke(monkeypatch, odd) == 0
    assert "QHNet+TraceGrad" in capsys.readouterr().out
    assert names(odd / "report") == TABLES


@pytest.mark.usefixtures("_undrawn")
@pytest.mark.parametrize(("bound", "status"), [(2.6, 0), (2.4, 1)])
def test_the_exit_status_says_whether_the_numbers_hold(runs, monkeypatch, capsys, tmp_path, bound, status):
    file = tmp_path / "bounds.yaml"
    file.write_text(f"checks: [{{arm: tracegrad, metric: test/h_mae, below: {bound}}}]")
    assert invoke(monkeypatch, runs, "--check", file, f"output={tmp_path / 'out'}") == status
    out, err = capsys.readouterr()
    line = f"QD, geometry split (qh9_demo), tracegrad, test/h_mae = 2.5, expected at most {bound}"
    assert f"{'FAILED' if status else 'ok'}: {line}" in out.splitlines()
    assert err == (f"error: 1 of 1 checks failed: {line}\n" if status else "")


@pytest.mark.usefixtures("_undrawn")
def test_the_check_against_the_paper(tmp_path, monkeypatch, capsys):
    for arm, value in (("none", 2.0), ("tracegrad", 1.2)):
        metrics = {"test/h_mae": value, "test/h_mae_diag": 1.7 * value, "test/h_mae_nondiag": 0.96 * value}
        metrics |= {"test/eps_mae": 17.5 if arm == "none" else 8.6, "test/psi_cosine": 0.94}
        write_run(tmp_path / "qs" / arm, paper_result("QS", arm, 0, metrics))
    assert invoke(monkeypatch, tmp_path / "qs", "--check", "tolerance=0.2") == 0
    assert (
        "ok: QS, QHNet+TraceGrad, MAE^H_all (Table 2) = 1.2, expected 0.9528 to 1.4292"
        in capsys.readouterr().out
    )
    assert invoke(monkeypatch, tmp_path / "qs", "--check", "tolerance=0.01") == 1
    assert "FAILED: QS, QHNet, MAE^H_all (Table 2) = 2, expected 1.9424 to 1.9816" in capsys.readouterr().out
    assert names(tmp_path / "qs" / "report") >= {"paper.csv"}


def test_a_check_that_does_not_exist(runs, monkeypatch, capsys):
    assert invoke(monkeypatch, runs, "--check=nothing") == 1
    assert "check is 'nothing': no such file; give a path or one of paper, demo" in capsys.readouterr().err


def test_the_check_of_the_demo_is_understood():
    checks = read_checks(report.CHECKS / "demo.yaml")
    assert {check.where["experiment"] for check in checks} == {"demo", "demo_crystals"}
    assert {check.arm for check in checks} == {"trivial", *LABELS}


def test_figures_5_to_7_of_the_paper(tmp_path):
    databases = {"MG": "DeepH-E3", "BG": "DeepH-E3", "MM": "HarmoSE-style"}
    for database, backbone in databases.items():
        for arm in ("none", "tracegrad"):
            label = backbone + ("" if arm == "none" else "+TraceGrad")
            metrics = {"test/h_mae": 1.0} | ({"test/h_mae/twisted": 2.0} if database == "BG" else {})
            content = paper_result(database, arm, 0, metrics, label=label, backbone=backbone)
            directory = write_run(tmp_path / f"{database}_{arm}", content, files=False)
            for ending in ("", "-twisted"):
                write_blocks(directory / f"block_mae{ending}.csv", np.full((6, 6), 1.0))
    tables = results_table(collect_results(tmp_path))
    drawn = figures(tables, [[]] * len(tables), [])
    titles = {
        name: [ax.get_title() for ax in drawn[name].axes if ax.get_title() and "change" not in ax.get_title()]
        for name in ("figure5", "figure6", "figure7")
    }
    assert titles["figure5"] == ["MG: DeepH-E3", "MG: DeepH-E3+TraceGrad"]
    assert titles["figure6"] == [
        *(
            "BG (nt): DeepH-E3",
            "BG (nt): DeepH-E3+TraceGrad",
            "BG (t): DeepH-E3",
            "BG (t): DeepH-E3+TraceGrad",
        ),
    ]
    assert titles["figure7"] == ["MM: HarmoSE-style", "MM: HarmoSE-style+TraceGrad"]


@pytest.mark.usefixtures("_undrawn")
def test_missing_points_of_a_sweep_are_listed(runs):
    points = [{"name": "grad_seed2", "status": "failed", "error": "CUDA out of memory"}]
    (runs / "manifest.json").write_text(json.dumps({"points": points}))
    (table,) = make_report(runs).tables
    assert table.footnotes[-1] == "missing: grad_seed2: failed (CUDA out of memory)"
    assert "- missing: grad_seed2: failed" in (runs / "report" / "table.md").read_text()
    elsewhere = runs / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "manifest.json").write_text(json.dumps({"points": points}))
    assert f"{elsewhere}: missing: grad_seed2: failed (CUDA out of memory)" in make_report(runs).notes


@pytest.mark.usefixtures("_undrawn")
def test_runs_that_have_not_ended_are_said(runs):
    begun = runs / "grad" / "5"
    begun.mkdir()
    for name in ("config.yaml", "provenance.json"):
        (begun / name).write_text("{}")
    report_ = make_report(runs)
    assert (
        f"{begun}: no results yet (it runs, was interrupted, or has test=false); it is in no table"
        in report_.notes
    )
    with pytest.raises(TraceGradError, match=rf"but unfinished runs, such as {begun}"):
        make_report(begun)
    begun = runs / "nothing"
    begun.mkdir()
    with pytest.raises(
        TraceGradError, match=r"no results\.json in it or below, and no unfinished run either"
    ):
        make_report(begun)


@pytest.mark.usefixtures("_undrawn")
def test_accelerations_measured_afterwards_are_taken_in(runs):
    folder = runs / "none" / "0" / "acceleration_best"
    folder.mkdir()
    metrics = {
        "test/achieved_ratio_1e": 0.5,
        "test/achieved_ratio_1e_std": 0.1,
        "test/scf_seconds_saved_1e": None,
    }
    (folder / "acceleration.json").write_text(json.dumps({"metrics": metrics}))
    (table,) = make_report(runs).tables
    cell = table.row("none").cells["test/achieved_ratio_1e"]
    assert (cell.values, cell.std) == ((0.5,), 0.1)
    (folder / "acceleration.json").write_text("{")
    with pytest.raises(TraceGradError, match=r"acceleration\.json: not a readable result"):
        make_report(runs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: runs is needed; give runs=VALUE\n"),
        (["runs=RUNS", "baseline=/nowhere"], "error: /nowhere: no results.json in it; "),
        (["/nowhere"], "error: /nowhere: no such directory; "),
        (["runs=RUNS", "wurst=1"], "error: there is no setting 'wurst'; nearest: worst"),
    ],
)
def test_errors_are_one_clean_line(runs, monkeypatch, capsys, arguments, message):
    assert invoke(monkeypatch, *(argument.replace("RUNS", str(runs)) for argument in arguments)) == 1
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1


def test_help_says_what_the_command_does(monkeypatch, capsys):
    assert invoke(monkeypatch, "--help") == 0
    help_ = capsys.readouterr().out
    assert "tracegrad report runs" in help_
    assert "output: null" in help_
