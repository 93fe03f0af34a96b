"""The command `tracegrad`: its help, its commands, and completion in a shell."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import tracegrad
from experiments.completion import BASH, candidates
from tests.processes import ROOT
from tracegrad.__main__ import help_text, main, root, summaries

# bash without the user's files; the command is that of this checkout.
COMPLETE = f"""
tracegrad() {{ PYTHONPATH={ROOT} {sys.executable} -m tracegrad "$@"; }}
{BASH}
COMP_WORDBREAKS=$' \\t\\n=:'
for COMP_LINE in "tracegrad tr" "tracegrad train optim=qh9 experiment=demo_" "tracegrad report runs={ROOT}/doc"; do
    COMP_POINT=${{#COMP_LINE}}
    _tracegrad
    echo "${{COMPREPLY[@]}}"
done
"""


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["tracegrad", *words])
    main()


def test_the_help_has_one_line_for_each_command() -> None:
    assert root() == ROOT
    for name in ("train", "predict", "report", "completion"):
        assert name in summaries()
    for name, summary in summaries().items():
        assert summary.endswith("."), name
        assert f"  {name} " in help_text()
    assert max(map(len, help_text().splitlines())) <= 118


def test_every_configured_command_is_there() -> None:
    own = {path.stem for path in (ROOT / "conf").glob("*.yaml")} - {"paths"}
    assert own <= summaries().keys()


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    call(monkeypatch, "--version")
    assert capsys.readouterr().out == f"tracegrad {tracegrad.__version__}\n"
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == tracegrad.__version__


def test_an_unknown_command_is_named_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="error: there is no command 'trian'; nearest: train"):
        call(monkeypatch, "trian")


def test_the_help_imports_nothing_large() -> None:
    program = (
        "import sys; from tracegrad.__main__ import main; sys.argv[1:] = []; main(); print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {"torch", "numpy", "hydra", "yaml"} & set(done.stdout.split("\n")[-2].split())


@pytest.mark.slow
def test_a_command_runs_as_python_m_runs_it(tmp_path: Path) -> None:
    """From another folder, whose modules it finds, with one line for an error."""
    (tmp_path / "experiments").mkdir()  # a folder of the user, which is not mistaken for that of TraceGrad
    (tmp_path / "mine.py").write_text("print('found')\n")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tracegrad",
            "train",
            "experiment=demo",
            "optim.schedule._target_=mine.Missing",
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "found" in done.stdout.splitlines()
    assert done.stderr.startswith("error: optim.schedule: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("tracegrad pre", ["predict "]),
        ("tracegrad train experiment=demo", ["experiment=demo", "experiment=demo_crystals"]),
        ("tracegrad train experiment=demo trainer.max_s", ["trainer.max_steps="]),
        ("tracegrad sweep wandb_", ["wandb_sweep="]),
        ("tracegrad sweep see", ["seed=", "seeds="]),
        ("tracegrad train --h", ["--help"]),
        ("tracegrad train experiment=none_such x", []),
        ("tracegrad none_such x", []),
    ],
)
def test_candidates(line: str, found: list[str]) -> None:
    assert candidates(line) == found


@pytest.mark.slow
def test_completion_in_bash() -> None:
    done = subprocess.run(
        ["bash", "--norc", "-c", COMPLETE], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["train ", "demo_crystals", f"{ROOT}/docs"]
