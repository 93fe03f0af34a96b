"""Real runs on the embedded data: trained, resumed, evaluated and compared, with correct tables on the disk."""

import csv
import json
import os
import re
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.settings.configuration import composed, plain
from experiments.training.parts import build
from experiments.training.runs import train
from experiments.training.wandb_run import wandb_mode
from tests import forked
from tests.experiments.processes import PLAIN
from tracegrad import load_model
from tracegrad.data.loading.datamodule import database_path
from tracegrad.errors import CheckpointError, ConfigError, TrainingError
from tracegrad.hamiltonian.blocks import assemble_matrix
from tracegrad.units import MEV_PER_HARTREE
from tracegrad.weights.checkpoint import load_checkpoint

SMALL = [
    "experiment=demo",
    "data.train_size=48",
    "data.fractions=[.92,.04,.04]",
    "model.backbone.channels=4",
    "model.backbone.bottleneck=4",
    "tracegrad.channels=8",
    "tracegrad.hidden=8",
    "optim.schedule.warmup_steps=2",
    "optim.schedule.total_steps=12",
    "trainer.max_steps=12",
    "trainer.log_every_n_steps=1",
    "callbacks.acceleration.molecules=0",
    "logger.wandb.mode=disabled",
]


def trained(directory: Path, *overrides: str) -> Path:
    """A training by the command."""
    done = forked.run("experiments.train", *SMALL, f"run_dir={directory}", *overrides)
    assert done.returncode == 0, done.stderr
    return directory


def run(directory: Path, *overrides: str) -> None:
    """The same in this process, where an error is an exception."""
    config = composed("train", [*SMALL, f"run_dir={directory}", *overrides])
    train(config, plain(config))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "tracegrad_seed0")


def test_run_directory_stands_alone(finished: Path) -> None:
    names = {path.relative_to(finished).as_posix() for path in finished.rglob("*") if path.is_file()}
    assert {
        "config.yaml",
        "provenance.json",
        "metrics.csv",
        "results.json",
        "test_samples.csv",
        "block_mae.csv",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "figures/learning_curves.png",
        "figures/elements.png",
        "figures/hamiltonian.png",
        "figures/block_mae.png",
    } <= names
    origin = json.loads((finished / "provenance.json").read_text())
    assert origin["data"]["functional"] == "b3lyp"
    assert origin["data"]["units"] == {"hamiltonian": "hartree", "positions": "angstrom"}
    assert {"git", "packages", "hardware", "command"} <= origin.keys()


def test_results_follow_the_released_definition(finished: Path) -> None:
    """MAE recomputed molecule by molecule from dense matrices of the best checkpoint."""
    config = composed("train", [*SMALL, f"run_dir={finished}"])
    parts = build(config, plain(config))
    parts.module.load_state_dict(load_checkpoint(finished / "checkpoints" / "best.ckpt")["state_dict"])
    model = parts.module.model.eval()
    values = {"h_mae": [], "h_mae_diag": [], "h_mae_nondiag": []}
    dataset = parts.datamodule.parts["test"]
    for graph in (dataset[i] for i in range(len(dataset))):
        numbers = graph.numbers.numpy()
        true = assemble_matrix(graph.h_self, graph.h_edge, numbers, model.basis).double()
        error = (model.hamiltonian(numbers, graph.positions).double() - true).abs().numpy()
        atom = np.repeat(np.arange(len(numbers)), model.basis.sizes[numbers])
        same = atom[:, None] == atom[None]
        values["h_mae"].append(error.mean())
        values["h_mae_diag"].append(error[same].mean())
        values["h_mae_nondiag"].append(error[~same].mean())
    results = json.loads((finished / "results.json").read_text())
    for name, per_molecule in values.items():
        expected = np.mean(per_molecule) * MEV_PER_HARTREE
        assert results["metrics"][f"test/{name}"] == pytest.approx(expected, rel=1e-4)
    with (finished / "test_samples.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(dataset) == results["counts"]["test"]
    mean = np.mean([float(row["h_mae"]) for row in rows])
    assert results["metrics"]["test/h_mae"] == pytest.approx(mean, rel=1e-9)
    by_row = {int(row["row"]): float(row["h_mae"]) for row in rows}
    for graph, value in zip((dataset[i] for i in range(len(dataset))), values["h_mae"], strict=True):
        assert by_row[int(graph.sample_id)] == pytest.approx(value * MEV_PER_HARTREE, rel=1e-3)


def test_metrics_do_not_depend_on_the_evaluation_batch_size(finished: Path, tmp_path: Path) -> None:
    reference = json.loads((finished / "results.json").read_text())["metrics"]
    timed = ("callbacks=appendix_i", "callbacks.inference_time.repeats=2")
    done = forked.run("experiments.evaluate", f"run={finished}", "batch_size=7", *timed, f"output={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "QHNet+TraceGrad" in done.stdout
    found = json.loads((tmp_path / "evaluation.json").read_text())
    again = found["metrics"]
    assert reference.keys() == again.keys()
    for name in again:
        if name != "test/inference_seconds":
            assert again[name] == pytest.approx(reference[name], rel=1e-5)
    # Times as in Appendix I, measured afterwards: every test sample, whatever the training has timed.
    assert (found["inference"]["samples"], found["inference"]["repeats"]) == (found["counts"]["test"], 2)
    assert json.loads((finished / "results.json").read_text())["inference"]["repeats"] == 5
    assert again["test/inference_seconds"] > 0


def test_checkpoints_are_plain_data(finished: Path) -> None:
    checkpoint = torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["tracegrad"]["config"]["tracegrad"]["grad"] is True
    assert checkpoint["tracegrad"]["data"]["split"] == "geometry"


def test_log_names_follow_the_grammar(finished: Path) -> None:
    with (finished / "metrics.csv").open(newline="") as file:
        header = next(csv.reader(file))
    names = {name for name in header if name not in ("step", "epoch", "lr")}
    assert {name.split("/")[0] for name in names} == {"train", "val", "test"}
    assert {"train/loss", "train/loss_h", "train/loss_t", "train/mu", "val/h_mae", "test/h_mae"} <= names


def test_finished_run_is_not_repeated(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (finished / "results.json").stat().st_mtime_ns
    run(finished)
    assert "is finished" in capsys.readouterr().out
    assert (finished / "results.json").stat().st_mtime_ns == before


def test_other_settings_in_a_used_directory_are_refused(finished: Path) -> None:
    with pytest.raises(ConfigError, match=r"optim\.schedule\.peak: 0\.01 -> 0\.5"):
        run(finished, "optim.schedule.peak=0.5")
    with pytest.raises(ConfigError, match="holds a run already"):
        run(finished, "resume=never")


@pytest.mark.slow
def test_training_that_ends_inside_an_epoch_keeps_its_last_step(tmp_path: Path) -> None:
    trained(tmp_path, *PLAIN, "trainer.max_steps=8")  # an epoch has 6 steps
    assert load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 8
    with (tmp_path / "metrics.csv").open(newline="") as file:
        validated = [int(row["step"]) for row in csv.DictReader(file) if row["val/h_mae"]]
    assert validated == [5, 7]
    assert (tmp_path / "results.json").exists()


@pytest.mark.slow
def test_failed_start_does_not_block_the_right_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="weight_decay"):
        run(tmp_path, "optim.optimizer.weight_decay=-1")
    trained(tmp_path, *PLAIN, "trainer.max_steps=6")
    assert (tmp_path / "results.json").exists()


@pytest.mark.slow
def test_another_database_is_refused_on_resume_and_in_evaluation(tmp_path: Path) -> None:
    first, other = tmp_path / "first.db", tmp_path / "other.db"
    shutil.copy(database_path("embedded:demo_dynamic.db"), first)
    shutil.copy(first, other)
    with sqlite3.connect(other) as connection:
        connection.execute("UPDATE data SET etot = 0")
    connection.close()
    directory = tmp_path / "run"
    trained(directory, f"data.path={first}", "trainer.max_steps=6", "test=false")
    with pytest.raises(CheckpointError, match=r"trained on first\.db .* the data now are other\.db"):
        run(directory, f"data.path={other}", "trainer.max_steps=6")
    trained(directory, *PLAIN, f"data.path={first}", "trainer.max_steps=6")
    command = ["experiments.evaluate", f"run={directory}", f"path={other}"]
    refused = forked.run(*command)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: ")
    assert "the data now are other.db" in refused.stderr
    assert forked.run(*command, "other_data=true").returncode == 0


def test_bad_row_in_a_worker_is_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.db"
    shutil.copy(database_path("embedded:demo_dynamic.db"), broken)
    with sqlite3.connect(broken) as connection:
        connection.execute("UPDATE data SET Ham = x'00'")
    connection.close()
    more = (f"run_dir={tmp_path / 'run'}", f"data.path={broken}", "data.num_workers=1")
    done = forked.run("experiments.train", *SMALL, *more)
    assert done.returncode == 1
    assert re.fullmatch(r"error: \S+broken\.db: row \d+: column Ham .*\n", done.stderr), done.stderr


def test_trained_model_predicts_without_its_data(finished: Path) -> None:
    model = load_model(finished)
    water = ([8, 1, 1], [[0.0, 0.0, 0.0], [0.0, 0.76, 0.59], [0.0, -0.76, 0.59]])
    h = model.hamiltonian(*map(np.array, water))
    assert h.shape == (24, 24)
    assert torch.equal(h, h.T)
    seen = model.trained_range
    assert seen is not None
    assert 2 <= seen.atoms <= 6  # of the molecules of the demonstration
    assert model.outside_training(np.array([8, 1]), np.array([[0.0, 0, 0], [0, 0, 1.5]]))[0].startswith(
        "H-O at 1.50"
    )


@pytest.mark.slow
def test_wandb_offline_files_stand_in_the_run_directory(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    more = (f"run_dir={tmp_path}", "logger.wandb.mode=offline", "trainer.max_steps=6")
    done = forked.run("experiments.train", *SMALL, *PLAIN, *more, environment=environment)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    with pytest.raises(ConfigError, match=r"logger\.wandb\.mode is 'onlin'"):
        wandb_mode("onlin")


def test_checkpoint_of_another_architecture_is_named(finished: Path, tmp_path: Path) -> None:
    state = load_checkpoint(finished / "checkpoints" / "best.ckpt")
    del state["state_dict"]["model.backbone.embedding.weight"]
    torch.save(state, tmp_path / "other.ckpt")
    done = forked.run("experiments.evaluate", f"run={finished}", f"checkpoint={tmp_path / 'other.ckpt'}")
    assert done.returncode == 1
    assert "of another architecture (missing: model.backbone.embedding.weight)" in done.stderr
    assert "Traceback" not in done.stderr


def test_damaged_and_missing_checkpoints_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "none.ckpt")
    (tmp_path / "cut.ckpt").write_bytes(b"PK\x03\x04 not all of it")
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(tmp_path / "cut.ckpt")


def test_nan_loss_stops_and_names_the_rows(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"not finite at step \d+ .* database rows \["):
        run(
            tmp_path,
            "optim.schedule.peak=1e30",
            "trainer.gradient_clip_val=0.0",
            "optim.schedule.warmup_steps=0",
        )


@pytest.mark.slow
def test_every_arm_trains_without_unused_parameters(tmp_path: Path) -> None:
    for arm in ("none", "trace", "grad"):
        trained(tmp_path / arm, f"tracegrad={arm}", "trainer.max_steps=6", "test=false")
        last = load_checkpoint(tmp_path / arm / "checkpoints" / "last.ckpt")
        moments = last["optimizer_states"][0]["state"]
        parameters = [key for key in last["state_dict"] if not key.startswith(("val_", "test_"))]
        assert len(moments) == len(parameters)
        assert all(state["exp_avg_sq"].any() for state in moments.values())


def test_precisions_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    for setting in ("trainer.precision=64-true", "data.dtype=float64"):
        with pytest.raises(ConfigError, match=r"precision=.* and data\.dtype=.* do not fit"):
            run(tmp_path, setting)


@pytest.mark.slow
def test_ema_weights_are_what_the_best_checkpoint_holds(tmp_path: Path) -> None:
    trained(tmp_path, *PLAIN, "callbacks=ema")
    last = load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    averaged, raw = last["state_dict"], last["current_model_state"]
    assert any(not torch.equal(averaged[name], raw[name]) for name in averaged)
    assert (tmp_path / "results.json").exists()
