"""What the tests of sweeps share: the command, points of the fake training, and waiting for something."""

import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from experiments import sweep
from experiments.settings.arguments import quoted
from experiments.sweeps.local import LocalRunner
from experiments.sweeps.manifest import SweepState
from experiments.sweeps.points import SweepPoint
from experiments.sweeps.settings import SweepSettings
from experiments.sweeps.status import FAILED, STOPPED, WAITING
from tests.experiments.in_process import status_of

TRAIN = (sys.executable, "-S", str(Path(__file__).with_name("fake_train.py")))


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit status of `sweep ARGUMENT ...`."""
    return status_of("sweep", sweep.main, monkeypatch, *arguments)


def point(runs: Path, name: str, mode: str) -> SweepPoint:
    """A point of the fake training."""
    overrides = (f"mode={mode}", f"run_dir={quoted(runs / name)}")
    return SweepPoint(name, runs / name, {"mode": mode}, {"seed": 0}, overrides, "results.json")


def points(runs: Path, modes: Iterable[str]) -> list[SweepPoint]:
    """Points named a, b, c, ... of these modes."""
    return [point(runs, chr(ord("a") + i), mode) for i, mode in enumerate(modes)]


def no_queue() -> set[str]:
    """The jobs of a machine where nothing may ask for them."""
    raise AssertionError("SLURM was asked")


def make_state(runs: Path, found: list[SweepPoint], queue: Callable[[], set[str]] = no_queue) -> SweepState:
    """The state of a sweep as the engine makes it."""
    return SweepState(runs, found, {"name": runs.name}, queue)


def run(state: SweepState, jobs: int = 4, **options: object) -> None:
    """Run what is not finished on this machine, as the engine does."""
    settings = SweepSettings({}, [], [], jobs=jobs, **options)  # type: ignore[arg-type]
    LocalRunner(state, settings, TRAIN, pause=0.02).run(state.with_state(WAITING, FAILED, STOPPED))


def wait_for(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until something is so."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)
