"""DFT acceleration by the command, and by two ranks of a training that divide the molecules."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments import accelerate as accelerate_
from experiments.settings.configuration import composed
from tests.experiments import processes
from tests.experiments.processes import DOUBLE, PLAIN, ROOT, TINY
from tracegrad.errors import CheckpointError, ConfigError

pytestmark = pytest.mark.slow
MOLECULES = 3
SETTINGS = [
    *(entry for entry in TINY if entry not in ("callbacks=default", "test=false")),
    *DOUBLE,
    *PLAIN,
    *("callbacks=molecules", "callbacks.orbitals=null", "trainer.max_steps=1"),
    *(f"callbacks.acceleration.molecules={MOLECULES}", "callbacks.acceleration.max_cycle=2"),
    *("callbacks.acceleration.guesses=[minao]", "callbacks.acceleration.jobs=1"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder where SCF runs from the guesses are cached."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Path:
    """A run that was trained for one step and tested by two ranks."""
    directory = tmp_path_factory.mktemp("runs") / "run"
    environment = {"XDG_CACHE_HOME": str(home)}
    processes.finished(directory, ranks=2, settings=SETTINGS, environment=environment)
    return directory


def arguments(run: Path, *more: str) -> list[str]:
    return [f"run={run}", f"molecules={MOLECULES}", "guesses=[minao]", "max_cycle=2", "jobs=2", *more]


@pytest.fixture
def accelerate(run: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The command in this process."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    return lambda *more: accelerate_.accelerate(composed("accelerate", arguments(run, *more)))


def cycles(path: Path) -> list[tuple[str, ...]]:
    with path.open(newline="") as file:
        names = ("row", "guess", "cycles_prediction", "cycles_guess", "first_hit", "same_state")
        return [tuple(row[name] for name in names) for row in csv.DictReader(file)]


def test_two_ranks_and_the_command_find_the_same(run, home, accelerate, tmp_path, capsys) -> None:
    kept = {path: path.stat().st_mtime_ns for path in home.rglob("*.npz")}
    assert len(kept) == MOLECULES
    accelerate(f"output={tmp_path}")
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*.npz")} == kept
    assert cycles(tmp_path / "acceleration.csv") == cycles(run / "acceleration.csv")
    assert len(cycles(run / "acceleration.csv")) == MOLECULES
    ranks = json.loads((run / "results.json").read_text())["metrics"]
    command = json.loads((tmp_path / "acceleration.json").read_text())
    assert (command["database"], command["functional"]) == ("demo_dynamic.db", "b3lyp")
    for name, value in command["metrics"].items():
        if "seconds" not in name:
            assert ranks[name] == pytest.approx(value, rel=1e-5), name
    assert ranks["test/scf_molecules"] == MOLECULES
    assert ranks["test/scf_not_converged"] > 0  # two cycles are not enough
    printed = capsys.readouterr().out
    assert "achieved ratio" in printed
    assert f"{command['metrics']['test/achieved_ratio_minao']:.3f} ± " in printed
    assert (tmp_path / "figures" / "scf.png").is_file()


def test_a_stopped_command_goes_on(run, accelerate, tmp_path) -> None:
    """Ctrl-C after the first run: one line, and the second call does not repeat it."""
    settings = [f"output={tmp_path}", "max_cycle=3", f"cache={tmp_path / 'cache'}", "jobs=1"]
    command = [sys.executable, "-m", "experiments.accelerate", *arguments(run, *settings)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True)
    limit = time.monotonic() + 120
    while not list(tmp_path.rglob("*.npz")) and time.monotonic() < limit:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    message = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert message.startswith("error: stopped by SIGINT after")
    assert len(message.splitlines()) == 1
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    assert kept
    accelerate(*settings)
    runs = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    assert kept.items() <= runs.items()
    assert len(runs) == 2 * MOLECULES


@pytest.mark.parametrize(
    ("argument", "error", "message"),
    [
        ("functional=lda", ConfigError, "functional of the database is 'lda'"),
        ("molecules=0", ConfigError, "molecules is 0; at least 1"),
        ("jobs=two", ConfigError, "jobs is 'two'"),
        ("guesses=[huckel]", ConfigError, r"guesses are \['huckel'\]"),
        ("checkpoint=worst", CheckpointError, "worst: no such checkpoint"),
        ("run=nowhere", ConfigError, "nowhere.*is nowhere a run directory"),
    ],
)
def test_mistakes_are_named(accelerate, argument: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        accelerate(argument)
