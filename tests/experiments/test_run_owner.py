"""Exclusive use of a run directory: real trainings at the same time, killed, moved and made longer."""

import csv
import shutil
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hydra.errors import InstantiationException

from experiments.evaluate import evaluate
from experiments.settings.configuration import composed, plain
from experiments.training.dry_run import dry_run
from experiments.training.resuming import find_run
from experiments.training.run_length import is_longer, length_of
from experiments.training.runs import train
from tests import forked
from tests.experiments import processes
from tests.experiments.processes import MAIN, PLAIN, TINY
from tests.experiments.sweeping import wait_for
from tests.system.test_ownership import elsewhere, renewed
from tracegrad.data.loading.datamodule import database_path
from tracegrad.errors import ConfigError, DataError, InUseError
from tracegrad.system.ownership import OwnerWatch
from tracegrad.weights.checkpoint import load_checkpoint


def values(directory: Path, *overrides: str) -> dict:
    return plain(composed("train", [*TINY, f"run_dir={directory}", *overrides]))


def run(directory: Path, *overrides: str) -> None:
    config = composed("train", [*TINY, f"run_dir={directory}", *overrides])
    train(config, plain(config))


def contents(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file() and path.name != ".owner")
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def steps(directory: Path) -> list[int]:
    with (directory / "metrics.csv").open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, forked.Forked]]:
    """A training that has saved a checkpoint and is stopped after its third step."""
    directory = tmp_path_factory.mktemp("runs") / "run"
    settings = ("callbacks.last.steps=1", f"run_dir={directory}")
    process = forked.start(MAIN, "3", "SIGSTOP", *TINY, *settings)
    state = Path(f"/proc/{process.pid}/stat")
    wait_for(lambda: state.read_text().rpartition(")")[2].split()[0] == "T", 120)
    yield directory, process
    process.kill()


@pytest.mark.slow
def test_a_second_training_ends_at_once_and_touches_nothing(running: tuple[Path, forked.Forked]) -> None:
    directory, process = running
    before = contents(directory)
    assert {"config.yaml", "provenance.json", "checkpoints/last.ckpt"} <= before.keys()
    who = rf"in use by training, process {process.pid} on {socket.gethostname()}, since 20.* UTC"
    for overrides in ([], ["data.batch_size=4", "tracegrad=none"], ["resume=force"]):
        with pytest.raises(InUseError, match=who):
            run(directory, *overrides)
    done = forked.run("experiments.train", *TINY, f"run_dir={directory}")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {directory} is in use by training, process {process.pid}")
    assert done.stderr.count("\n") == 1
    assert contents(directory) == before


@pytest.mark.slow
def test_a_run_that_is_being_trained_can_be_read(running: tuple[Path, forked.Forked], tmp_path: Path) -> None:
    directory, _ = running
    before = contents(directory)
    evaluate(
        composed(
            "evaluate", [f"run={directory}", "checkpoint=last", f"output={tmp_path / 'found'}", "part=val"]
        )
    )
    assert (tmp_path / "found" / "evaluation.json").exists()
    other = composed("train", [*TINY, f"run_dir={directory}", f"init_from={directory}"])
    assert dry_run(other, plain(other))
    settings = (f"init_from={directory}/checkpoints/last.ckpt", "trainer.max_steps=1")
    assert "tensors from" in processes.finished(tmp_path / "new", *settings)
    assert contents(directory) == before


@pytest.mark.slow
def test_a_killed_training_leaves_no_owner(running: tuple[Path, forked.Forked]) -> None:
    directory, process = running
    process.kill()
    assert OwnerWatch(directory).owner() is None
    processes.finished(directory, "trainer.max_steps=4", "callbacks.last.steps=1")
    assert not (directory / ".owner").exists()
    assert load_checkpoint(directory / "checkpoints" / "last.ckpt")["global_step"] == 4
    assert steps(directory) == [0, 1, 2, 3]


@pytest.mark.slow
def test_further_ranks_of_a_refused_start_end_too(tmp_path: Path) -> None:
    """Started as by torchrun, but without a launcher that would end them."""
    directory = tmp_path / "run"
    values = elsewhere(directory, launch="another")
    with renewed(directory, values):
        done = processes.train(directory, ranks=2)
    assert [process.returncode for process in done] == [1, 1]
    for process in done:
        assert "in use by training, process" in process.stderr
        assert "Traceback" not in process.stderr
    assert [path.name for path in directory.iterdir()] == [".owner"]


@pytest.mark.slow
def test_a_start_that_fails_before_its_first_step_leaves_no_run(tmp_path: Path) -> None:
    """Here in the first batch; with an optimizer that cannot be made: see test_train."""
    broken = tmp_path / "broken.db"
    shutil.copy(database_path("embedded:demo_dynamic.db"), broken)
    with sqlite3.connect(broken) as connection:
        connection.execute("UPDATE data SET Ham = x'00'")
    connection.close()
    directory = tmp_path / "run"
    with pytest.raises(DataError):
        run(directory, f"data.path={broken}")
    assert not find_run(directory, values(directory, "data.batch_size=4"), "auto")
    assert not directory.exists()


@pytest.mark.slow
def test_a_failed_start_does_not_cost_the_results_of_a_shorter_training(tmp_path: Path) -> None:
    directory, short = (
        tmp_path / "run",
        [*PLAIN, "test=true", "trainer.max_steps=2", "data.fractions=[.8,.1,.1]"],
    )
    processes.finished(directory, *short)
    before = contents(directory)
    with pytest.raises(InstantiationException, match=r"callbacks\.last\.minutes is 0"):
        run(directory, *short, "trainer.max_steps=3", "callbacks.last.minutes=0")
    assert contents(directory) == before


@pytest.mark.slow
def test_other_settings_are_refused_from_the_first_step(tmp_path: Path) -> None:
    """Killed before the first checkpoint."""
    directory = tmp_path / "run"
    early = ["callbacks.last.steps=null", "+logger.csv.flush_logs_every_n_steps=1", "trainer.max_steps=3"]
    processes.train(directory, *early, stop_after=2)
    assert not (directory / "checkpoints").exists()
    assert steps(directory) == [0]
    other = values(directory, "data.batch_size=4", "optim.schedule.peak=0.5")
    with pytest.raises(
        ConfigError,
        match=r"other settings and no checkpoint yet; .* start it anew with the new settings by resume=force:\n"
        r"  data\.batch_size: 8 -> 4\n  optim\.schedule\.peak: 0\.01 -> 0\.5$",
    ):
        find_run(directory, other, "auto")
    with pytest.raises(ConfigError, match="holds a run already"):
        find_run(directory, values(directory), "never")
    processes.finished(directory, *early)
    assert steps(directory) == [0, 1, 2]
    shutil.rmtree(directory / "checkpoints")
    changed = ("data.batch_size=4", "optim.schedule.peak=0.5", "resume=force")
    processes.finished(directory, *early, *changed)
    assert steps(directory) == [0, 1, 2]
    assert yaml.safe_load((directory / "config.yaml").read_text())["data"]["batch_size"] == 4


@pytest.mark.slow
def test_a_moved_run_goes_on(tmp_path: Path) -> None:
    """In another folder and under another name; with a way back and W&B's files."""
    first, moved = tmp_path / "runs" / "first", tmp_path / "other place" / "renamed"
    more = [
        "+callbacks.revert={_target_: callbacks.revert.RevertAndDecay, directory: '${run_dir}/checkpoints'}",
        "logger.wandb.mode=offline",
    ]
    processes.finished(first, *more, "trainer.max_steps=7")
    assert (first / "checkpoints" / "revert.ckpt").exists()
    moved.parent.mkdir()
    shutil.move(first, moved)
    out = processes.finished(moved, *more, "trainer.max_steps=9", "resume=auto")
    assert f"resuming from {moved}/checkpoints/last.ckpt (step 7)" in out
    assert not first.exists()
    state = load_checkpoint(moved / "checkpoints" / "last.ckpt")
    assert state["global_step"] == 9
    (kept,) = (value for key, value in state["callbacks"].items() if key.startswith("BestCheckpoint"))
    assert kept["best_model_path"] == str(moved / "checkpoints" / "best.ckpt")
    assert len(list((moved / "wandb").glob("offline-run-*"))) == 2
    with pytest.raises(ConfigError, match=r"resume=force:\n  data\.batch_size: 8 -> 4$"):
        find_run(moved, values(moved, *more, "data.batch_size=4"), "auto")


@pytest.mark.parametrize(
    ("before", "after", "longer"),
    [
        ({"max_steps": 400}, {"max_steps": 800}, True),
        ({"max_steps": 400}, {"max_steps": 200}, False),
        ({"max_steps": 400}, {"max_steps": -1}, True),
        ({"max_steps": -1}, {"max_steps": 400}, False),
        ({"max_steps": 400, "max_epochs": -1}, {"max_steps": 400, "max_epochs": 3}, False),
        ({"max_epochs": 3}, {"max_epochs": None}, True),
        ({"max_time": "00:12:00:00"}, {"max_time": {"days": 1}}, True),
        ({"max_time": {"days": 1}}, {"max_time": "00:23:59:59"}, False),
        ({"max_time": "01:00:00:00"}, {}, True),
        ({}, {"num_nodes": 2}, False),
    ],
)
def test_which_training_is_longer(before: dict, after: dict, longer: bool) -> None:
    one, other = (length_of({"trainer": settings}) for settings in (before, after))
    assert is_longer(one, other) is longer
