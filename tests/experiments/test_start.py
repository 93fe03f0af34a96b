"""Commands that only start trainings, and the help of all commands, import neither torch nor other large packages."""

import subprocess
import sys
from pathlib import Path

import pytest

LARGE = ("torch", "lightning", "matplotlib", "scipy")


def imported(*words: str | Path) -> list[str]:
    """The large packages that a command of Python imports from its start to its end."""
    command = [sys.executable, "-X", "importtime", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    names = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    return [name for name in LARGE if name in names]


@pytest.mark.parametrize("name", ["ablate", "study"])
def test_the_parents_of_trainings(name: str) -> None:
    assert imported("-c", f"import experiments.{name}") == []


def test_a_sweep_that_starts_nothing(tmp_path: Path) -> None:
    words = ["experiment=demo", "grid.loss.trace_weight=0.1,0.5", f"runs={tmp_path}", "dry_run=true"]
    assert imported("-m", "experiments.sweep", *words) == []


@pytest.mark.parametrize("name", ["train", "predict", "sweep"])
def test_help(name: str) -> None:
    assert imported("-m", "tracegrad", name, "--help") == []
