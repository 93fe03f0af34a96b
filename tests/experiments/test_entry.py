"""Commands as processes: Ctrl-C while they start, a reader that goes away, missing packages."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import ROOT, without
from tracegrad.system.signals import stop_signals

PACK = ["source=" + str(ROOT / "tracegrad/data/embedded/demo_crystals.h5"), "output=packed.h5"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def command(name: str, *words: str, python: tuple[str, ...] = ()) -> list[str]:
    return [sys.executable, *python, "-m", f"experiments.{name}", *words]


@pytest.mark.slow
@pytest.mark.parametrize("module", ["experiments", "torch"])
def test_an_interrupt_while_a_command_starts_is_no_traceback(module: str, tmp_path: Path) -> None:
    """Sent when this module has been imported; Python tells of each import on stderr."""
    process = subprocess.Popen(
        command("predict", "run=nowhere", python=("-X", "importtime")),
        env=ENVIRONMENT,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.rpartition("|")[2].strip() == module:
            process.send_signal(signal.SIGINT)
            break
    out, err = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGINT
    assert not [line for line in (out + err).splitlines() if not line.startswith("import time:")]


def test_the_help_needs_no_large_import() -> None:
    done = subprocess.run(
        command("train", "--help", python=("-X", "importtime")),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("Train a network that predicts Hamiltonians")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "hydra" in imported
    assert not imported & {"torch", "lightning", "numpy"}


@pytest.mark.parametrize("words", [["--help"], pytest.param(PACK, marks=pytest.mark.slow)])
def test_a_reader_that_goes_away_does_not_end_the_work(words: list[str], tmp_path: Path) -> None:
    """As with `| head`; both outputs go into the pipe."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        command("pack", *words), env=ENVIRONMENT, cwd=tmp_path, stdout=writing, stderr=writing, check=False
    )
    os.close(writing)
    assert done.returncode == 0
    assert (tmp_path / "packed.h5").exists() == (words is PACK)
    assert (tmp_path / "packed.provenance.json").exists() == (words is PACK)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_below_the_output_does_not_end_the_work() -> None:
    program = "from experiments.settings.entry import prepare; prepare(); [print('a', flush=True) for _ in range(3)]"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program], env=ENVIRONMENT, stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 0
    assert done.stderr == b"warning: no more output (No space left on device); the work goes on\n"


def test_a_terminal_that_closes_stops_long_work_in_order() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
    with stop_signals() as received:
        os.kill(os.getpid(), signal.SIGHUP)
        assert received == [signal.SIGHUP]
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        with stop_signals() as received:
            os.kill(os.getpid(), signal.SIGHUP)
            assert received == []
    finally:
        signal.signal(signal.SIGHUP, before)


HANGUP = """
import os, signal
from experiments.settings.entry import end_by_hangup, interruptible, prepare
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
prepare()
with interruptible():
    os.kill(os.getpid(), signal.SIGHUP)
    print("goes on", flush=True)
    {statement}
    os.kill(os.getpid(), signal.SIGHUP)
    print("to its end", flush=True)
os.kill(os.getpid(), signal.SIGHUP)
print("never")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("statement", "printed"), [("pass", "goes on\nto its end\n"), ("end_by_hangup()", "goes on\n")]
)
def test_a_terminal_that_closes_ends_a_command_only_where_nothing_is_lost(
    statement: str, printed: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGUP.format(statement=statement)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGHUP, printed, "")


@pytest.mark.slow
def test_a_command_runs_from_a_checkout_that_is_not_installed(tmp_path: Path) -> None:
    done = subprocess.run(
        command("pack", *PACK, python=("-S",)),
        env=without(tmp_path / "site", "tracegrad", "wandb", "submitit", "pyscf"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("wrote packed.h5: ")


@pytest.mark.slow
def test_a_missing_package_is_named(tmp_path: Path) -> None:
    done = subprocess.run(
        command("accelerate", "run=x", python=("-S",)),
        env=without(tmp_path / "site", "pyscf"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout + done.stderr == (
        "error: the package pyscf, which work on molecules needs, is not installed; pip install 'tracegrad[dft]'\n"
    )


WITHOUT = """
import importlib, os, sys
from pathlib import Path
from experiments.settings.cli import user_error
for name in "train evaluate report predict sweep ablate export fetch bands cache pack convert study".split():
    importlib.import_module(f"experiments.{name}")
from experiments.settings.configuration import composed, plain
from experiments.training.loggers import make_loggers
from experiments.training.provenance import provenance
from experiments.sweeps.settings import SweepSettings
from experiments.sweeps.slurm import submit
print(sorted({"torch", "pyscf"} & provenance()["packages"].keys()))
for mode in ("auto", "disabled", "offline"):
    config = composed("train", ["experiment=demo_crystals", "run_dir=run", f"logger.wandb.mode={mode}"])
    try:
        print(mode, len(make_loggers(config, plain(config), {})))
    except Exception as error:
        print(user_error(error))
os.environ["WANDB_MODE"] = "disabled"
print(len(make_loggers(config, plain(config), {})))
for name in ("sbatch", "srun"):
    Path(name).touch(mode=0o755)
os.environ["PATH"] = os.getcwd()
try:
    submit([], Path("runs"), SweepSettings({}, [], []))
except Exception as error:
    print(user_error(error))
"""


@pytest.mark.slow
def test_what_needs_no_optional_package_works_without(tmp_path: Path) -> None:
    """A folder named wandb, which W&B creates, is not mistaken for the package."""
    (tmp_path / "wandb").mkdir()
    done = subprocess.run(
        [sys.executable, "-S", "-c", WITHOUT],
        env=without(tmp_path / "site", "tracegrad", "wandb", "submitit", "pyscf", "ase"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "['torch']",
        "auto 1",
        "disabled 1",
        "W&B mode offline needs the package wandb, which is not installed; pip install 'tracegrad[wandb]', "
        "or set logger.wandb.mode=disabled",
        "1",
        "the package submitit, which launcher=slurm needs, is not installed; pip install 'tracegrad[slurm]'",
    ]
