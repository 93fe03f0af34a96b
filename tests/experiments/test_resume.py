"""Trainings that are killed and resumed end as if they had not been interrupted."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks.best_checkpoint import BestCheckpoint
from callbacks.checkpoint_io import AtomicCheckpointIO
from experiments.settings.configuration import composed, plain
from experiments.training.resume_point import resume_point
from experiments.training.resuming import find_run
from tests.experiments.processes import PLAIN, TINY, finished, train
from tracegrad.errors import CheckpointError, ConfigError, TraceGradError
from tracegrad.weights.checkpoint import load_checkpoint
from tracegrad.weights.file_names import LAST, PREVIOUS

pytestmark = pytest.mark.slow
EMA = ["callbacks.ema={_target_: lightning.pytorch.callbacks.EMAWeightAveraging, decay: 0.9}"]


def content(directory: Path) -> dict[str, Any]:
    return load_checkpoint(directory / "checkpoints" / LAST)


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Assert bitwise equality of plain data, except for entries that depend on time or path."""
    if isinstance(one, dict):
        names = {str(key): key for key in one}
        assert names.keys() == {str(key) for key in other} or "best_k_models" in where, where
        for name, key in names.items():
            if name in ("Timer", "config", "dirpath", "best_k_models") or name.endswith("model_path"):
                continue
            assert_same(one[key], other[key], f"{where}.{name}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for i, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}[{i}]")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


@pytest.mark.parametrize(
    ("ranks", "overrides", "steps"),
    # At the last step of an epoch, before its validation; after a validation, before any other checkpoint; and inside
    # an epoch, between two checkpoints.
    [(1, [*EMA, "data.num_workers=1"], (6, 7, 11)), (2, [], (6, 11))],
    ids=["ema and a worker", "two ranks"],
)
def test_a_training_killed_at_several_steps_ends_bitwise_the_same(tmp_path, ranks, overrides, steps):
    """Weights, averaged weights, optimizer, schedule, loops and random states, and every row of the log."""
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    finished(straight, *overrides, ranks=ranks)
    for step in steps:
        done = train(killed, *overrides, ranks=ranks, stop_after=step)
        assert {process.returncode for process in done} == {-signal.SIGKILL}
    out = finished(killed, *overrides, ranks=ranks)
    assert "resuming from" in out
    assert_same(content(straight), content(killed))
    assert content(straight)["global_step"] == 15
    assert (killed / "metrics.csv").read_bytes() == (straight / "metrics.csv").read_bytes()


@pytest.mark.parametrize(("number", "ranks"), [(signal.SIGHUP, 1), (signal.SIGINT, 1), (signal.SIGTERM, 2)])
def test_a_signal_saves_the_step_and_ends_cleanly(tmp_path, number, ranks):
    done = train(tmp_path, "callbacks.last.steps=null", ranks=ranks, stop_after=4, number=number)
    assert done[0].returncode == 128 + number, done[0].stderr
    assert f"stopped by {number.name}; the same command resumes the run from step 4" in done[0].stdout
    assert "Traceback" not in done[0].stderr
    assert [process.returncode for process in done[1:]] == [0] * (ranks - 1)
    assert content(tmp_path)["global_step"] == 4


def test_slurm_puts_the_job_into_the_queue_again(tmp_path):
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text('#!/bin/sh\necho "$@" > "$CALLED"\n')
    scontrol.chmod(0o755)
    environment = {
        "PATH": f"{scontrol.parent}:/usr/bin:/bin",
        "CALLED": str(tmp_path / "called"),
        "SLURM_JOB_ID": "1234",
    }
    run = tmp_path / "run"
    (done,) = train(run, stop_after=3, number=signal.SIGUSR1, environment=environment)
    assert done.returncode == 0, done.stderr
    assert "job 1234 is queued again" in done.stdout
    assert (tmp_path / "called").read_text() == "requeue 1234\n"
    assert content(run)["global_step"] == 3


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "run"
    finished(directory, "trainer.max_steps=8")
    return directory


def copied(ended: Path, tmp_path: Path) -> Path:
    """Its two checkpoints, in another directory."""
    for name in (LAST, PREVIOUS):
        target = tmp_path / "checkpoints" / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes((ended / "checkpoints" / name).read_bytes())
    return tmp_path


@pytest.mark.parametrize("harm", ["truncated", "empty", "a bit"])
def test_a_damaged_last_checkpoint_gives_way_to_the_one_before(ended, tmp_path, harm, capsys):
    run = copied(ended, tmp_path)
    last, previous = (run / "checkpoints" / name for name in (LAST, PREVIOUS))
    whole = last.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    last.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "a bit": bytes(flipped)}[harm])
    path, found = resume_point(run)
    assert path == previous
    assert found["global_step"] < 8
    assert f"warning: {last}: damaged" in capsys.readouterr().out
    previous.write_bytes(whole[:1000])
    with pytest.raises(CheckpointError, match=r"last\.ckpt: damaged.*, or remove .* to start anew"):
        resume_point(run)
    last.unlink()
    previous.write_bytes(whole)
    assert resume_point(run)[0] == previous
    previous.unlink()
    assert resume_point(run) is None


def test_a_training_goes_on_from_the_checkpoint_before_to_the_same_end(ended, tmp_path):
    """The last file is cut off, as can happen on a file system without a journal."""
    run = tmp_path / "run"
    train(run, stop_after=5)
    last = run / "checkpoints" / LAST
    last.write_bytes(last.read_bytes()[:-100])
    out = finished(run, "trainer.max_steps=8")
    assert "damaged" in out
    assert f"resuming from {run / 'checkpoints' / PREVIOUS}" in out
    assert_same(content(ended), content(run))
    assert (run / "metrics.csv").read_bytes() == (ended / "metrics.csv").read_bytes()


def test_other_settings_are_refused_with_their_differences(ended):
    def values(*overrides: str) -> dict[str, Any]:
        return plain(composed("train", [*TINY, "trainer.max_steps=8", f"run_dir={ended}", *overrides]))

    for allowed in ("trainer.devices=2", "trainer.max_steps=20", "logger.wandb.project=other"):
        assert find_run(ended, values(allowed), "auto")
    with pytest.raises(ConfigError, match=r"resume=force:\n  data\.batch_size: 8 -> 4$"):
        find_run(ended, values("data.batch_size=4"), "auto")
    with pytest.raises(ConfigError, match="holds a run already"):
        find_run(ended, values(), "never")
    with pytest.raises(ConfigError, match="choose one of auto, never, force"):
        find_run(ended, values(), "always")


def test_force_goes_on_with_other_settings_and_says_so(ended, capsys):
    changed = plain(
        composed("train", [*TINY, "trainer.max_steps=8", f"run_dir={ended}", "data.batch_size=4"])
    )
    assert find_run(ended, changed, "force")
    assert "continuing with other settings than before:\n  data.batch_size: 8 -> 4" in capsys.readouterr().out


def test_a_finished_training_that_is_to_be_longer_goes_on(ended, tmp_path):
    longer, straight = tmp_path / "longer", tmp_path / "straight"
    tested = ("test=true", "data.fractions=[.8,.1,.1]", *PLAIN)
    finished(longer, "trainer.max_steps=12", *tested)
    first = (longer / "results.json").read_text()
    assert "is finished" in finished(longer, "trainer.max_steps=12", *tested)
    finished(longer, "trainer.max_steps=15", *tested)
    assert (longer / "results.json").read_text() != first
    shorter = finished(longer, "trainer.max_steps=12", *tested)
    assert "is finished" in shorter
    assert "are those of trainer.max_steps=15; for a shorter training choose another name" in shorter
    finished(straight, "data.fractions=[.8,.1,.1]")
    assert content(longer)["global_step"] == 15
    assert_same(content(straight)["state_dict"], content(longer)["state_dict"])


def test_a_full_disk_is_a_clear_error_and_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    saver = AtomicCheckpointIO()
    saver.save_checkpoint({"weights": torch.ones(3)}, path)

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(bytes(data)[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(TraceGradError, match=r"last\.ckpt: cannot be written \(No space left on device\)"):
        saver.save_checkpoint({"weights": torch.zeros(3)}, path)
    assert load_checkpoint(path)["weights"].tolist() == [1, 1, 1]
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_disk_that_fills_up_in_a_training_ends_it_with_one_line(tmp_path):
    """A limit on the size of files, which the kernel enforces like a full disk."""
    (done,) = train(tmp_path, environment={"LIMIT_FILE_BYTES": "4000"})
    assert done.returncode == 1
    assert "error: " in done.stderr
    assert "cannot be written (File too large)" in done.stderr
    assert "Traceback" not in done.stderr


def test_optimizer_and_schedule_are_not_forced(ended):
    changed = plain(
        composed("train", [*TINY, "trainer.max_steps=8", f"run_dir={ended}", "optim.schedule.peak=0.5"])
    )
    with pytest.raises(
        ConfigError, match=r"another name with init_from=.*\n  optim\.schedule\.peak: 0\.01 -> 0\.5"
    ):
        find_run(ended, changed, "force")


def test_a_run_that_has_moved_keeps_its_best_score(ended, tmp_path):
    state = content(ended)["callbacks"]
    (best,) = (value for key, value in state.items() if key.startswith("BestCheckpoint"))
    moved = BestCheckpoint(
        dirpath=tmp_path, filename="best", monitor="val/h_mae", enable_version_counter=False
    )
    moved.load_state_dict(best)
    assert moved.best_model_score == best["best_model_score"]
    assert moved.best_model_path == str(tmp_path / "best.ckpt")
    assert list(moved.best_k_models) == [str(tmp_path / "best.ckpt")]


def test_the_last_epoch_is_validated_and_saved(tmp_path):
    finished(tmp_path, "trainer.max_steps=-1", "trainer.max_epochs=3", "trainer.check_val_every_n_epoch=2")
    assert content(tmp_path)["global_step"] == 18


def test_epochs_that_are_cut_short_are_refused(tmp_path):
    (done,) = train(tmp_path, "+trainer.limit_train_batches=4")
    assert done.returncode == 1
    assert "use data.train_size" in done.stderr


def test_accumulated_gradients_are_in_no_checkpoint(tmp_path):
    (done,) = train(
        tmp_path,
        "+trainer.accumulate_grad_batches=2",
        "callbacks.last.steps=1",
        stop_after=2,
        number=signal.SIGTERM,
    )
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    state = content(tmp_path)
    (loader,) = state["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    assert loader["done"] == 2 * state["global_step"] == 4
