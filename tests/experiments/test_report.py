import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from experiments.report import make_report
from tests.run_directories import LABELS, crystal_result, result, write_run
from tracegrad.errors import TraceGradError

ROOT = Path(__file__).parents[2]
TABLES = {"table.md", "table.csv", "table.json"}
FIGURES = {"ablation.png", "learning_curves.png", "block_mae.png"}


@pytest.fixture
def runs(tmp_path):
    directory = tmp_path / "runs"
    for i, arm in enumerate(LABELS):
        for seed in (0, 1):
            write_run(directory / arm / str(seed), result(arm, seed, 5.0 - i + seed))
    return directory


def run(*arguments, cwd=ROOT):
    command = [sys.executable, "-m", "experiments.report", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


def names(directory):
    return {path.name for path in directory.iterdir()}


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


def test_the_report_can_be_made_again_and_elsewhere(runs, tmp_path):
    first = make_report(runs)
    texts = {name: (runs / "report" / name).read_bytes() for name in TABLES | FIGURES}
    second = make_report(runs)
    assert first == second
    assert {name: (runs / "report" / name).read_bytes() for name in TABLES | FIGURES} == texts
    elsewhere = make_report(runs, tmp_path / "a" / "b")
    assert {path.name for path in elsewhere.files} == names(tmp_path / "a" / "b") == TABLES | FIGURES
    assert elsewhere.notes == []


def test_figures_of_several_tables_have_their_own_names(runs):
    write_run(runs / "qs", result("none", 0, 1.0, database_label="QS", database="s.db", split="ood"))
    write_run(runs / "other", result("none", 0, 1.0, split_hash="f" * 16))
    report = make_report(runs)
    assert len(report.tables) == 3
    endings = ("-QD_geometry-1", "-QD_geometry-2", "-QS_ood")
    expected = {f"{Path(name).stem}{ending}.png" for name in FIGURES for ending in endings}
    assert {path.name for path in report.files} == TABLES | expected
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
    assert names(tmp_path / "out") == TABLES | FIGURES | {"challenge.json", "block_mae-twisted.png"}
    content = json.loads((tmp_path / "out" / "challenge.json").read_text())
    assert "our reading" in content["definition"]
    assert content["challenges"][0]["baseline"] == "none_seed1"
    assert [len(part["samples"]) for part in content["challenges"][0]["subsets"]] == [2, 2]


def test_figures_of_crystals_and_molecules_have_their_own_names(crystals):
    write_run(crystals / "qd", result("none", 0, 1.0))
    report = make_report(crystals)
    expected = {
        f"{Path(name).stem}{ending}.png" for name in FIGURES for ending in ("-BG_shuffle", "-QD_geometry")
    }
    assert {path.name for path in report.files} == (
        TABLES | expected | {"challenge.json", "block_mae-twisted-BG_shuffle.png"}
    )
    assert report.notes == []


def test_a_missing_subset_is_told(crystals):
    path = crystals / "grad_seed1" / "block_mae-twisted.csv"
    path.unlink()
    assert f"{path} is missing: DeepH-E3+Grad, seed 1 is not in that figure" in make_report(crystals).notes


def test_missing_curves_are_told_and_left_out(tmp_path):
    directory = write_run(tmp_path / "runs" / "none", result("none", 0, 5.0), files=False)
    report = make_report(tmp_path / "runs")
    assert {path.name for path in report.files} == TABLES | {"ablation.png"}
    assert len(report.notes) == 2
    assert report.notes[0].startswith(f"{directory / 'metrics.csv'} is missing: QHNet, seed 0")


def test_damaged_curves_are_named(runs):
    path = runs / "grad" / "1" / "metrics.csv"
    path.write_text("step,lr\nx,1\n")
    with pytest.raises(TraceGradError, match=str(path)):
        make_report(runs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: runs is needed; give runs=VALUE\n"),
        (["runs=RUNS", "baseline=/nowhere"], "error: /nowhere: no results.json in it; "),
        (["runs=/nowhere"], "error: /nowhere: no such directory; "),
    ],
)
def test_errors_are_one_clean_line(runs, arguments, message):
    done = run(*(argument.replace("RUNS", str(runs)) for argument in arguments))
    assert done.returncode == 1
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1


def test_help_says_what_the_command_does():
    done = run("--help")
    assert done.returncode == 0
    assert "python -m experiments.report runs=runs" in done.stdout
    assert "output: null" in done.stdout
