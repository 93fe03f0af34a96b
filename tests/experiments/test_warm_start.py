"""`init_from`: trainings that start from existing weights, their record, and how they are resumed."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from experiments.settings.configuration import composed, plain
from experiments.training.runs import train
from tests import forked
from tests.experiments.test_evaluate_released import sha256
from tracegrad.errors import CheckpointError
from tracegrad.weights.checkpoint import load_checkpoint

SMALL = [
    *("experiment=demo", "callbacks=default", "data.train_size=16", "data.fractions=[.8,.02,.18]"),
    *(
        "model.backbone.channels=4",
        "model.backbone.bottleneck=4",
        "tracegrad.channels=8",
        "tracegrad.hidden=8",
    ),
    *("trainer.max_steps=2", "test=false", "logger.wandb.mode=disabled"),
]
# Steps so small that no weight changes: the saved weights are those from which the training has started.
STILL = ["optim.schedule.peak=1e-30", "optim.schedule.final=0.0", "optim.schedule.warmup_steps=0"]


def run(directory: Path, *overrides: str) -> None:
    config = composed("train", [*SMALL, f"run_dir={directory}", *overrides])
    train(config, plain(config))


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(directory / "checkpoints" / "best.ckpt")["state_dict"]


def provenance(directory: Path) -> dict:
    return json.loads((directory / "provenance.json").read_text())


@pytest.fixture(scope="module")
def before(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "none_seed0"
    done = forked.run("experiments.train", *SMALL, f"run_dir={directory}", "tracegrad=none")
    assert done.returncode == 0, done.stderr
    return directory


def check_backbone(directory: Path, before: Path, rtol: float) -> None:
    found = weights(directory)
    for name, tensor in weights(before).items():
        torch.testing.assert_close(found[name], tensor, rtol=rtol, atol=0, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("callbacks", ["default", "ema"])
def test_a_training_starts_from_a_run(before, tmp_path, capsys, callbacks):
    more = ["callbacks.acceleration=null", "callbacks.orbitals=null"] if callbacks == "ema" else []
    run(
        tmp_path,
        f"init_from={before}",
        "seed=4",
        "tracegrad.gain=zero",
        f"callbacks={callbacks}",
        *more,
        *STILL,
    )
    check_backbone(
        tmp_path, before, rtol=1e-6 if callbacks == "ema" else 0
    )  # an average of equals is rounded
    best = before / "checkpoints" / "best.ckpt"
    count, total = len(weights(before)), len(weights(tmp_path))
    new = [
        "tracegrad.blocks.edge.0",
        "tracegrad.blocks.edge.1",
        "tracegrad.blocks.self.0",
        "tracegrad.blocks.self.1",
        "tracegrad.decoders.edge",
        "tracegrad.decoders.self",
    ]
    line = f"init_from: {count} of {total} tensors from {best}; new: {', '.join(new)}"
    assert line in capsys.readouterr().out.splitlines()
    record = {"file": "best.ckpt", "sha256": sha256(best), "tensors": count, "new": new}
    assert provenance(tmp_path)["init_from"] == record
    assert load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["tracegrad"]["config"]["init_from"] == str(
        before
    )
    gains = [tensor for name, tensor in weights(tmp_path).items() if ".gains." in name]
    assert len(gains) == 4


@pytest.mark.slow
def test_a_training_that_goes_on_does_not_start_again(before, tmp_path, capsys):
    source = shutil.copytree(before, tmp_path / "source")
    settings = [f"init_from={source}", "tracegrad=grad"]
    run(tmp_path / "run", *settings)
    record = provenance(tmp_path / "run")["init_from"]
    middle = weights(tmp_path / "run")
    shutil.rmtree(source)
    capsys.readouterr()
    run(tmp_path / "run", *settings, "trainer.max_steps=4")
    printed = capsys.readouterr().out
    assert "(step 2)" in printed
    assert "init_from" not in printed
    last = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert last["global_step"] == 4
    assert any(not torch.equal(last["state_dict"][name], tensor) for name, tensor in middle.items())
    assert provenance(tmp_path / "run")["init_from"] == record


@pytest.mark.slow
def test_a_start_that_fails_leaves_no_run(before, tmp_path):
    with pytest.raises(CheckpointError, match=r"of another architecture .*other shape: backbone"):
        run(tmp_path / "run", f"init_from={before}", "model.backbone.channels=5")
    assert not (tmp_path / "run").exists()
    run(tmp_path / "run", "trainer.max_steps=1")
    assert "init_from" not in provenance(tmp_path / "run")
