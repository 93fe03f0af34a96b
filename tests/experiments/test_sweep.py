"""The command for grids: what it lists, its table, its file for W&B."""

import io
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from wandb.sdk.launch.sweeps import utils as agent

from experiments.settings.configuration import composed, plain
from experiments.sweeps.manifest import SweepState
from experiments.sweeps.points import make_points
from experiments.sweeps.settings import read_settings
from experiments.sweeps.summary import (
    best_row,
    grid_numbers,
    grid_rows,
    grid_table,
    missing_error,
    print_states,
    show_table,
)
from tests.experiments.sweeping import command, no_queue
from tests.run_directories import result, write_run


def test_a_dry_run_lists_everything_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    arguments = ["experiment=demo", "grid.loss.t=mae,mse", "seeds=2", f"runs={runs}", "dry_run=true"]
    assert command(monkeypatch, *arguments) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"4 runs in {runs}: 4 waiting",
        f"  loss.t=mae seed 0: waiting ({runs}/loss.t=mae_seed0)",
        f"  loss.t=mse seed 0: waiting ({runs}/loss.t=mse_seed0)",
        f"  loss.t=mae seed 1: waiting ({runs}/loss.t=mae_seed1)",
        f"  loss.t=mse seed 1: waiting ({runs}/loss.t=mse_seed1)",
    ]
    assert not runs.exists()


def test_help_and_mistakes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(monkeypatch, "--help") == 0
    text = capsys.readouterr().out
    assert "sweep=NAME" in text
    assert "gpus_per_run=1" in text
    assert "{shared}" not in text
    assert command(monkeypatch, "experiment=demo", "sweep=none") == 1
    assert capsys.readouterr().err.startswith("error: no sweep 'none'; there are lambda,")


@pytest.fixture
def grid(tmp_path: Path) -> SweepState:
    """Two of three values with results; validation and test would choose differently."""
    runs = tmp_path / "qs_lambda"
    values = {"loss.trace_weight": [0.1, 0.2, 0.3]}
    found = make_points(runs, [], values, [{"seed": 0}, {"seed": 1}], group="g", result="results.json")
    errors = {0.1: (5.0, 10.0), 0.2: (7.0, 9.0)}
    for point in found:
        weight, seed = point.values["loss.trace_weight"], point.seed["seed"]
        if weight in errors:
            validation, test = errors[weight]
            write_run(point.directory, result("tracegrad", seed, test + seed))
            table = f"step,val/h_mae\n10,{validation + seed}\n20,{validation + 3}\n"
            (point.directory / "metrics.csv").write_text(table)
    return SweepState(runs, found, {"name": runs.name}, no_queue)


def test_a_grid_is_chosen_on_the_validation_set(grid: SweepState, tmp_path: Path) -> None:
    rows = grid_rows(grid)
    assert [row.values["loss.trace_weight"] for row in rows] == [0.1, 0.2, 0.3]
    assert [(row.validation, row.test) for row in rows] == [
        ((5.0, 6.0), (10.0, 11.0)),
        ((7.0, 8.0), (9.0, 10.0)),
        ((), ()),
    ]
    assert best_row(rows) is rows[0]
    console = Console(width=100, file=io.StringIO())
    show_table(grid_table(rows), grid_numbers(rows), tmp_path / "report", "sweep", console)
    text = console.file.getvalue()
    assert "*: best on the validation set: loss.trace_weight=0.1" in text
    assert "runs are missing" in text
    assert f"wrote sweep.md, sweep.csv into {tmp_path / 'report'}" in text
    lines = (tmp_path / "report" / "sweep.md").read_text().splitlines()
    assert "| loss.trace_weight | validation | test | runs |" in lines
    assert "| 0.1 | **5.5 ± 0.71** | 10.5 ± 0.71 | 2/2 |" in lines
    assert "| 0.3 | - | - | 0/2 |" in lines
    table = (tmp_path / "report" / "sweep.csv").read_text().splitlines()
    assert table[0].startswith("loss.trace_weight,validation_mean,validation_std,test_mean")
    assert table[1].split(",")[:2] == ["0.1", "5.5"]


def test_what_is_missing_is_said(grid: SweepState, tmp_path: Path) -> None:
    console = Console(width=300, record=True, file=(tmp_path / "out").open("w"))
    print_states(grid, console)
    console.file.close()
    lines = console.export_text().splitlines()
    assert lines[0] == f"6 runs in {grid.runs}: 4 finished, 2 waiting"
    assert [line.strip() for line in lines[1:]] == [
        "loss.trace_weight=0.3 seed 0: waiting",
        "loss.trace_weight=0.3 seed 1: waiting",
    ]
    assert missing_error(grid) is None  # nothing has failed


def test_the_file_for_wandb_starts_the_same_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, runs = tmp_path / "sweep.yaml", tmp_path / "with a space"
    arguments = [
        "experiment=demo",
        "sweep=lambda",
        "grid.tracegrad=trace,tracegrad",
        "seeds=3",
        f"runs={runs}",
    ]
    assert command(monkeypatch, *arguments, f"wandb_sweep={path}") == 0
    assert f"wandb sweep {path}" in capsys.readouterr().out
    assert not runs.exists()
    content = yaml.safe_load(path.read_text())
    assert (content["method"], content["metric"]) == ("grid", {"name": "val/h_mae", "goal": "minimize"})
    assert content["parameters"]["loss.trace_weight"] == {"values": [i / 10 for i in range(1, 11)]}
    assert content["parameters"]["seed"] == {"values": [0, 1, 2]}
    # What W&B's agent makes of it, for one of the runs.
    chosen = {"loss.trace_weight": 0.3, "tracegrad": "trace", "seed": 2}
    given = agent.create_sweep_command_args(
        {"args": {key: {"value": value} for key, value in chosen.items()}}
    )
    words = agent.create_sweep_command(content["command"])
    assert words[:5] == ["${env}", "${interpreter}", "-m", "tracegrad", "train"]
    assert words[-1] == "${args_no_hyphens}"
    theirs = plain(composed("train", [*words[5:-1], *given["args_no_hyphens"]]))
    settings = read_settings("sweep", arguments)
    ours = make_points(
        runs, settings.overrides, settings.grid, settings.seeds, group=runs.name, result="results.json"
    )
    (same,) = (point for point in ours if {**point.values, **point.seed} == chosen)
    assert theirs == plain(composed("train", same.overrides))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["grid.data.label='a b',c"], "cannot hold the value 'a b' of data.label"),
        (["grid.loss.h=[mse],[mae]"], "cannot hold the value '[mse]' of loss.h"),
        (["grid.optim=qh9,deeph_e3"], "cannot vary the group optim"),
        (["grid.loss.t=mae,mse", "seeds=3", "equal_seeds=true"], "leave out equal_seeds"),
    ],
)
def test_what_a_wandb_sweep_cannot_hold(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    path = tmp_path / "sweep.yaml"
    assert command(monkeypatch, "experiment=demo", *arguments, f"wandb_sweep={path}") == 1
    assert message in capsys.readouterr().err
    assert not path.exists()
