"""An ablation end to end: arms as processes, a report, a second call that repeats nothing."""

import json
import sys
from functools import partial
from pathlib import Path

import pytest

from experiments import ablate
from experiments.sweeps import engine
from experiments.sweeps.settings import read_settings
from tests.experiments.in_process import status_of
from tests.experiments.processes import PLAIN
from tests.experiments.sweeping import make_state
from tests.experiments.test_train import SMALL
from tracegrad.errors import TrainingError

# A training that crashes in one arm; in the other it leaves an empty file in place of results.
ONE_ARM = """
import sys
from functools import partial
from pathlib import Path
settings = dict(argument.split("=", 1) for argument in sys.argv[1:])
if settings["tracegrad"] == "grad":
    sys.exit("boom")
(Path(settings["run_dir"].strip("'")) / "results.json").touch()
"""
# One that ends as a training with impossible settings does.
REFUSED = "import sys; sys.exit('error: data.train_size is 4000, but there are 70 samples')"
# These tests are not about what is computed with PySCF or how well it is learned.
FAST = [
    *SMALL,
    *PLAIN,
    "data.fractions=[.96,.02,.02]",
    "callbacks.acceleration=null",
    "callbacks.orbitals=null",
    "trainer.max_steps=6",
]


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    return status_of("ablate", ablate.main, monkeypatch, *arguments)


def states_of(*arguments: str) -> dict[str, str]:
    """The state of every point before anything is started."""
    points, runs, _ = engine.plan(read_settings("ablate", arguments))
    return {name: status.status for name, status in make_state(runs, points).states.items()}


@pytest.mark.slow
def test_arms_and_seeds_are_trained_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "with a space, and = signs"
    settings = [*FAST, "arms=none,grad", "seeds=[3]", "jobs=2", f"runs={runs}"]
    assert command(monkeypatch, *settings) == 0
    out = capsys.readouterr().out
    for label in ("trivial predictor", "QHNet", "QHNet+Grad"):
        assert any(line.strip().startswith(label + " ") for line in out.splitlines())
    names = {path.name for path in runs.iterdir()}
    assert names == {"none_seed3", "grad_seed3", "report", "manifest.json"}
    results = json.loads((runs / "grad_seed3" / "results.json").read_text())
    assert (results["arm"], results["seed"], results["step"]) == ("grad", 3, 6)
    made_by = json.loads((runs / "none_seed3" / "provenance.json").read_text())["command"]
    assert made_by[:2] == ["tracegrad", "train"]
    assert command(monkeypatch, *settings) == 0
    again = capsys.readouterr().out
    assert "2 runs in" in again
    assert "2 of them finished" in again
    assert states_of(*settings, "trainer.max_steps=4") == {
        "none seed 3": "finished",
        "grad seed 3": "finished",
    }
    assert states_of(*settings, "arms=none", "trainer.max_steps=8") == {"none seed 3": "waiting"}


def test_help_without_arguments(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(monkeypatch) == 0
    text = capsys.readouterr().out
    assert "arms=all" in text
    assert "gpus_per_run=1" in text


def test_mistakes_stop_before_the_first_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, message in (
        (["arms=none,gradient"], "unknown arms ['gradient']"),
        (["data.batchsize=3"], "nearest: data.batch_size"),
    ):
        assert command(monkeypatch, "experiment=demo", f"runs={tmp_path / 'runs'}", *arguments) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert message in error
        assert not (tmp_path / "runs").exists()


def test_a_run_that_fails_is_named_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train = (sys.executable, "-S", "-c", REFUSED)
    monkeypatch.setattr(ablate, "run_sweep", partial(engine.run_sweep, train=train))
    arguments = ["arms=none", "seeds=1", f"runs={tmp_path}", "data.train_size=4000", "retries=0"]
    assert command(monkeypatch, *FAST, *arguments) == 1
    error = capsys.readouterr().err
    assert "1 of 1 runs failed" in error
    assert "data.train_size is 4000" in error
    assert "train.log" in error


def test_what_is_finished_is_reported_although_others_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["experiment=demo", "arms=none,grad", "seeds=2", "equal_seeds=true", f"runs={tmp_path}"]
    settings = read_settings("ablate", arguments)
    reported = []
    train = (sys.executable, "-S", "-c", ONE_ARM)
    with pytest.raises(TrainingError, match="2 of 4 runs failed"):
        engine.run_sweep(settings, lambda state, _: reported.append(state), train)
    (state,) = reported
    assert [point.name for point in state.with_state("finished")] == [
        "none seed 0 repetition 0",
        "none seed 0 repetition 1",
    ]
    out = capsys.readouterr().out
    assert "all seeds are 0, as in the paper: the spread over repetitions is that of the hardware" in out
    assert f"4 runs in {tmp_path}: 2 finished, 2 failed" in out
    assert f"grad seed 0 repetition 1: failed, 2 tries: boom ({tmp_path}/grad_seed0_rep1/train.log)" in out
