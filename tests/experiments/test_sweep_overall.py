"""One sweep on several databases: its command line, and the one choice for all of them."""

import csv
import math
import sys
from pathlib import Path

import pytest

from experiments.settings.configuration import composed
from experiments.sweeps.databases import by_experiment, sweep_together
from experiments.sweeps.engine import plan
from experiments.sweeps.overall import chosen, overall, unfinished
from experiments.sweeps.settings import read_settings
from experiments.sweeps.summary import GridRow
from tests.experiments.sweeping import command
from tests.run_directories import crystal_result, result, write_run
from tracegrad.errors import ConfigError, TrainingError

WEIGHT = "loss.trace_weight"


def test_one_experiment_is_an_ordinary_sweep() -> None:
    assert by_experiment(["experiment=mg", "sweep=lambda"]) == {}
    assert by_experiment(["sweep=lambda", "data.path=a,b"]) == {}
    assert by_experiment(["experiment=[mg,mm]"]) == {}


def test_each_experiment_has_its_own_settings_and_place() -> None:
    arguments = [
        *("experiment=mg,bb", "sweep=lambda", "mg.data.path=/data/MG", "bb.data.path='/data/b = b'"),
        *("data.num_workers=1", "runs=/somewhere", "logger.wandb.mode=disabled"),
    ]
    workers, wandb = "data.num_workers=1", "logger.wandb.mode=disabled"
    parts = by_experiment(arguments)
    assert parts == {
        "mg": [
            "experiment=mg",
            "sweep=lambda",
            "data.path=/data/MG",
            workers,
            "runs=/somewhere/mg",
            wandb,
        ],
        "bb": [
            "experiment=bb",
            "sweep=lambda",
            "data.path='/data/b = b'",
            workers,
            "runs=/somewhere/bb",
            wandb,
        ],
    }
    points, runs, config = plan(read_settings("sweep", parts["bb"]))
    assert (runs, len(points), config.data.path) == (Path("/somewhere/bb"), 10, "/data/b = b")
    assert composed("train", points[2].overrides).loss.trace_weight == 0.3


@pytest.mark.parametrize("value", ["mg,mg", "mg,", ",mg"])
def test_names_are_written_once(value: str) -> None:
    with pytest.raises(ConfigError, match="write each experiment once"):
        by_experiment([f"experiment={value}"])


def row(weight: float, *validation: float, runs: int = 1) -> GridRow:
    return GridRow({WEIGHT: weight}, validation, (), runs)


def test_every_database_counts_by_ratios() -> None:
    """An error of one meV decides nothing where errors are large, and units of the databases do not matter."""
    grids = {
        "small": [row(0.1, 0.30), row(0.2, 0.20), row(0.3, 0.22)],
        "large": [row(0.1, 100.0), row(0.2, 120.0), row(0.3, 104.0)],
    }
    rows = overall(grids)
    expected = [math.sqrt(1.5 * 1), math.sqrt(1 * 1.2), math.sqrt(1.1 * 1.04)]
    assert [entry.overall for entry in rows] == pytest.approx(expected, rel=1e-14)
    assert chosen(rows, []) is rows[2]
    scaled = {**grids, "large": [row(i.values[WEIGHT], i.validation[0] * 27211.4) for i in grids["large"]]}
    again = overall(scaled)
    assert [entry.overall for entry in again] == pytest.approx(expected, rel=1e-14)
    assert rows[2].ratios == pytest.approx({"small": 1.1, "large": 1.04})


def test_seeds_are_averaged_and_missing_runs_withhold_the_choice() -> None:
    grids = {
        "mg": [row(0.1, 1.0, 3.0, runs=2), row(0.2, 3.0, runs=2)],
        "mm": [row(0.1, 1.0), row(0.2, runs=1)],
    }
    rows = overall(grids)
    assert rows[0].validation == {"mg": 2.0, "mm": 1.0}
    assert rows[1].overall is None
    missing = unfinished(grids)
    assert missing == [
        f"mg: {WEIGHT}=0.2: 1 of 2 runs finished",
        f"mm: {WEIGHT}=0.2: 0 of 1 runs finished",
    ]
    assert chosen(rows, missing) is None


def test_a_value_that_diverges_is_not_chosen() -> None:
    rows = overall({"a": [row(0.1, 2.0), row(0.2, math.inf)], "b": [row(0.1, 5.0), row(0.2, 1.0)]})
    assert rows[1].overall == math.inf
    assert chosen(rows, []) is rows[0]
    rows = overall({"a": [row(0.1, math.inf)], "b": [row(0.1, 5.0)]})
    assert chosen(rows, []) is None


ERRORS = {"demo": {0.1: 100.0, 0.2: 110.0, 0.3: 104.0}, "demo_crystals": {0.1: 0.3, 0.2: 0.2, 0.3: 0.21}}
SEARCH = ("experiment=demo,demo_crystals", f"grid.{WEIGHT}=0.1,0.2,0.3")


def finish(runs: Path, name: str, weight: float) -> None:
    """A finished run of one point, whose second validation diverged."""
    seed, error = 0, ERRORS[name][weight]
    make = result if name == "demo" else crystal_result
    directory = write_run(runs / name / f"{WEIGHT}={weight}_seed{seed}", make("tracegrad", seed, error))
    (directory / "metrics.csv").write_text(f"step,val/h_mae\n10,{error}\n20,nan\n30,{2 * error}\n")


def test_the_command_chooses_one_value_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The directories of both sweeps are finished, as after their last run or another command."""
    for name, errors in ERRORS.items():
        for weight in errors:
            finish(tmp_path, name, weight)
    assert command(monkeypatch, *SEARCH, f"runs={tmp_path}") == 0
    out = capsys.readouterr().out
    assert f"*: best on the validation set: {WEIGHT}=0.1" in out  # of demo
    assert f"*: best on the validation set: {WEIGHT}=0.2" in out  # of demo_crystals
    assert f"*: the choice for all databases: {WEIGHT}=0.3" in out
    lines = (tmp_path / "report" / "overall.md").read_text().splitlines()
    assert f"| {WEIGHT} | demo | demo_crystals | overall |" in lines
    assert f"| 0.3 | 104 (1.040) | 0.21 (1.050) | **{math.sqrt(1.04 * 1.05):.4f}** |" in lines
    with (tmp_path / "report" / "overall.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["chosen"] for row in rows] == ["0", "0", "1"]
    assert (float(rows[1]["demo"]), float(rows[1]["demo/ratio"])) == (110.0, pytest.approx(1.1))


def test_failed_runs_withhold_the_choice_and_stop_no_other_database(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for weight in ERRORS["demo_crystals"]:
        finish(tmp_path, "demo_crystals", weight)
    finish(tmp_path, "demo", 0.1)
    reported = []
    train = (sys.executable, "-S", "-c", "import sys; sys.exit('boom')")
    parts = by_experiment([*SEARCH, f"runs={tmp_path}"])
    with pytest.raises(
        TrainingError, match=r"^demo: 2 of 3 runs failed; the same command goes on with them:"
    ):
        sweep_together(parts, tmp_path, lambda state, _: reported.append(state.runs.name), train)
    assert reported == ["demo", "demo_crystals"]
    out = capsys.readouterr().out
    assert "no choice yet: runs are missing; the same command goes on with them" in out
    assert f"demo: {WEIGHT}=0.3: 0 of 1 runs finished" in out
    assert "| 0.2 | - | 0.2 (1.000) | - |" in (tmp_path / "report" / "overall.md").read_text()


@pytest.mark.slow
def test_mistakes_and_dry_runs_start_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, *SEARCH, f"runs={tmp_path / 'runs'}", "dry_run=true") == 0
    out = capsys.readouterr().out
    assert f"3 runs in {tmp_path / 'runs' / 'demo_crystals'}: 3 waiting" in out
    for arguments, message in (
        ((*SEARCH, "demo_crystals.data.sizs=[1,1,1]"), "nearest: data.sizes"),
        (("experiment=demo,nothing", "sweep=lambda"), "no experiment named 'nothing'"),
        (
            ("experiment=mg,mm", "mm.name=mg", "sweep=lambda"),
            "the sweeps of mg and mm would share runs/mg_lambda",
        ),
        ((*SEARCH, f"wandb_sweep={tmp_path / 'file'}"), "give them one by one"),
        (
            (*SEARCH, f"demo.grid.{WEIGHT}=0.1,0.2"),
            "the grid of demo_crystals has other values than that of demo",
        ),
    ):
        assert command(monkeypatch, *arguments, "dry_run=true") == 1
        assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
