"""macOS, imitated on Linux: what only Linux has is taken away from a process. Windows is refused by name."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import ROOT

MACOS = """
import errno, multiprocessing, os, sys

def hide(event, arguments):
    if event == "open" and str(arguments[0]).startswith("/proc/"):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), arguments[0])

for name in ("sched_getaffinity", "sched_setaffinity", "waitid", "memfd_create", "posix_fadvise"):
    if hasattr(os, name):
        delattr(os, name)
sys.addaudithook(hide)
multiprocessing.set_start_method("spawn", force=True)
import lightning, psutil, torch_geometric  # they look at the platform themselves
sys.platform = "darwin"
"""
PARTS = """
from pathlib import Path
import torch
from tracegrad.ops import native
from tracegrad.system.cores import available_cores
from tracegrad.system.device import device_name
from tracegrad.system.ownership import take_ownership
from tracegrad.system.processes import machine_id, start_time
from tracegrad.system.workers import WorkerPool

assert available_cores() == os.cpu_count()
assert machine_id() and start_time(os.getpid()) and start_time(2**22) is None
assert device_name(torch.device("cpu"))
with take_ownership("run", "training") as ownership:
    assert ownership.owner.pids == [os.getpid()]
with WorkerPool(1) as pool:
    pool.submit("a", os.getpid)
    ((key, result),) = pool.finished(60)
    assert key == "a" and result != os.getpid()
print(native.library('extern "C" int twelve() { return 12; }').twelve())
"""
TRAINING = """
if __name__ == "__main__":
    sys.argv = ["train.py", *sys.argv[1:]]
    from experiments.train import main
    main()
"""
FEW_STEPS = [
    *("experiment=demo_crystals", "data.sizes=[4,2,2]", "data.num_workers=1", "callbacks=default"),
    *("model.backbone.irreps=4x0e+2x1o+2x2e", "model.backbone.embed=4", "model.backbone.blocks=1"),
    *(
        "tracegrad.channels=8",
        "tracegrad.hidden=8",
        "trainer.max_steps=2",
        "test=false",
        "logger.wandb.mode=disabled",
    ),
]


def python(folder: Path, program: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    file = folder / "program.py"
    file.write_text(program)
    return subprocess.run(
        [sys.executable, file, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_windows_is_refused_by_name(tmp_path: Path) -> None:
    done = python(tmp_path, "import sys; sys.platform = 'win32'\nimport tracegrad")
    assert done.stderr.splitlines()[-1] == (
        "ImportError: TraceGrad needs Linux or macOS (locks, signals and processes of POSIX); run it in WSL"
    )


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ps") is None, reason="no ps, which macOS has")
def test_the_parts_that_ask_the_system_work_as_on_macos(tmp_path: Path) -> None:
    """With a compiler that, like some of Apple's, knows no -march=native."""
    real = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if real is None:
        pytest.skip("no compiler")
    compiler = tmp_path / "apple-c++"
    refusal = "*march=native*) echo \"error: the compiler does not support '-march=native'\" >&2; exit 1;;"
    compiler.write_text(f'#!/bin/sh\ncase "$*" in {refusal} esac\nexec {real} "$@"\n')
    compiler.chmod(0o755)
    done = python(tmp_path, MACOS + PARTS, CXX=str(compiler), XDG_CACHE_HOME=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "12\n", "")


@pytest.mark.slow
def test_without_a_compiler_there_is_one_message(tmp_path: Path) -> None:
    """A source that Apple's compiler refuses, or no compiler: the plain form computes."""
    program = """
from tracegrad.ops import native
for source in ("one", "two"):
    assert native.library(source) is None
"""
    done = python(tmp_path, MACOS + program, CXX="/nowhere/clang++", XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the C++ kernels are not used") == 1


@pytest.mark.slow
def test_a_training_with_spawned_workers(tmp_path: Path) -> None:
    done = python(tmp_path, MACOS + TRAINING, *FEW_STEPS, "run_dir=run")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()
