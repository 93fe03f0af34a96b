"""Real runs of HarmoSE-style networks: first and second stage, killed and resumed, on one and two ranks."""

import signal
from pathlib import Path

import pytest
import torch

from tests.experiments.processes import DOUBLE, PLAIN, SAME_ROUNDING, finished, train
from tests.experiments.test_resume import assert_same, content

pytestmark = pytest.mark.slow
SETTINGS = [
    "experiment=demo_crystals",
    "data.sizes=[4,2,2]",
    "data.twisted=[]",
    "data.batch_size=2",
    "model.backbone.irreps=4x0e+2x1o+2x2e",
    "model.backbone.embed=4",
    "model.backbone.blocks=2",
    "model.backbone.radial=8",
    "tracegrad.channels=8",
    "tracegrad.hidden=8",
    "trainer.max_steps=8",
    "trainer.check_val_every_n_epoch=2",
    "trainer.log_every_n_steps=1",
    "trainer.enable_progress_bar=false",
    "callbacks.last.steps=1",
    "logger.wandb.mode=disabled",
    "test=false",
    *PLAIN,
]
HARMOSE = [*SETTINGS, "model=harmose_small", "model.backbone.width=8", "model.backbone.heads=2"]


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return content(directory)["state_dict"]


def test_a_second_stage_that_is_killed_and_resumed_ends_bitwise_the_same(tmp_path):
    """Rotations begin halfway; the first stage with its TraceGrad stays that of the first run."""
    first, straight, killed = (tmp_path / name for name in ("first", "straight", "killed"))
    finished(first, "trainer.max_steps=2", settings=SETTINGS)
    second = [*HARMOSE, "model.backbone.stage=second", f"init_from={first}"]
    second.append("model.backbone.augmentation_start=0.5")
    finished(straight, settings=second, environment=SAME_ROUNDING)
    (done,) = train(killed, stop_after=6, settings=second, environment=SAME_ROUNDING)
    assert done.returncode == -signal.SIGKILL
    assert "resuming from" in finished(killed, settings=second, environment=SAME_ROUNDING)
    assert_same(content(straight), content(killed))
    assert (killed / "metrics.csv").read_bytes() == (straight / "metrics.csv").read_bytes()
    after = weights(straight)
    assert after["model.backbone.rotations.mean"].abs().max() > 0
    for name, tensor in weights(first).items():
        name = name.replace("model.backbone.", "model.backbone.first.")
        assert torch.equal(after[name], tensor), name


JOINT = [*HARMOSE, "loss=deeph_joint", "trainer.max_steps=4"]


def test_two_ranks_train_both_stages_as_one_process_does(tmp_path):
    """Without rotations, whose draws differ by rank."""
    settings = [*JOINT, *DOUBLE, "model.backbone.augmentation=none"]
    one, both = tmp_path / "one", tmp_path / "both"
    finished(one, settings=settings)
    finished(both, settings=settings, ranks=2)
    together = weights(both)
    for name, tensor in weights(one).items():
        torch.testing.assert_close(together[name], tensor, rtol=1e-8, atol=1e-11, msg=name)


def test_a_second_stage_without_a_first_ends_with_one_line(tmp_path):
    (done,) = train(tmp_path, settings=[*HARMOSE, "model.backbone.stage=second"])
    assert done.returncode == 1
    assert "stage=second trains the second stage on a trained first one; give init_from=RUN" in done.stderr
    assert "Traceback" not in done.stderr
