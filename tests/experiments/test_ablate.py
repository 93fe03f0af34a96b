"""An ablation end to end: two arms as processes, a report, a second call that repeats nothing."""

import json
import subprocess
import sys
from pathlib import Path

from tests.experiments.test_train import SMALL


def ablate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "experiments.ablate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_arms_and_seeds_are_trained_and_reported(tmp_path: Path) -> None:
    runs = tmp_path / "with a space, and = signs"
    settings = [*SMALL, "trainer.max_steps=6", "arms=none,grad", "seeds=3", "jobs=2", f"runs={runs}"]
    done = ablate(*settings)
    assert done.returncode == 0, done.stderr
    for label in ("trivial predictor", "QHNet", "QHNet+Grad"):
        assert any(line.strip().startswith(label + " ") for line in done.stdout.splitlines())
    assert {path.name for path in runs.iterdir()} == {"none_seed3", "grad_seed3", "report"}
    results = json.loads((runs / "grad_seed3" / "results.json").read_text())
    assert (results["arm"], results["seed"], results["step"]) == ("grad", 3, 6)
    command = json.loads((runs / "none_seed3" / "provenance.json").read_text())["command"]
    assert command[:3] == ["python", "-m", "experiments.train"]
    again = ablate(*settings)
    assert "2 runs in" in again.stdout
    assert "2 of them finished" in again.stdout
    assert again.returncode == 0


def test_mistakes_stop_before_the_first_run(tmp_path: Path) -> None:
    for arguments, message in (
        (["arms=none,gradient"], "unknown arms ['gradient']"),
        (["seeds=a"], "seeds=a must be whole numbers"),
        (["jobs=0"], "jobs=0 must be"),
        (["tracegrad=grad"], "tracegrad is set by the ablation"),
        (["data.batchsize=3"], "nearest: data.batch_size"),
    ):
        done = ablate("experiment=demo", f"runs={tmp_path / 'runs'}", *arguments)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert message in done.stderr
        assert not (tmp_path / "runs").exists()


def test_a_run_that_fails_is_named_with_its_log(tmp_path: Path) -> None:
    done = ablate(*SMALL, "arms=none", "seeds=0", f"runs={tmp_path}", "data.train_size=4000")
    assert done.returncode == 1
    assert "1 of 1 runs failed" in done.stderr
    assert "data.train_size is 4000" in done.stderr
    assert "train.log" in done.stderr
