"""Several processes that compile the same kernel."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LOADING = """
import sys
from tracegrad.ops import native
library = native.library('extern "C" int twelve() { return 12; }')
print(library.twelve())
"""


def compiler(path: Path, seconds: float) -> Path:
    """A compiler that logs each compilation and takes ``seconds`` longer."""
    log = path / "compilations"
    script = path / "slow-c++"
    real = shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")
    if real is None:
        pytest.skip("no compiler")
    lines = [
        "#!/bin/sh",
        f'case "$*" in *" -o "*) echo $$ >> {log}; sleep {seconds};; esac',
        f'exec {real} "$@"',
    ]
    script.write_text("\n".join(lines))
    script.chmod(0o755)
    return script


def start(path: Path, script: Path) -> subprocess.Popen:
    environment = os.environ | {"CXX": str(script), "XDG_CACHE_HOME": str(path), "PYTHONPATH": os.getcwd()}
    return subprocess.Popen(
        [sys.executable, "-c", LOADING], env=environment, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_processes_that_start_together_compile_once(tmp_path):
    script = compiler(tmp_path, 2)
    processes = [start(tmp_path, script) for _ in range(2)]
    assert [process.communicate(timeout=100)[0].strip() for process in processes] == ["12"] * 2
    assert len((tmp_path / "compilations").read_text().split()) == 1
    kept = {path.suffix for path in (tmp_path / "tracegrad/kernels").iterdir()}
    assert kept == {".so", ".sha256"}


@pytest.mark.slow
def test_a_compilation_that_is_killed_stands_in_nobodys_way(tmp_path):
    log = tmp_path / "compilations"
    first = start(tmp_path, compiler(tmp_path, 60))
    while not log.exists() or not log.read_text().endswith("\n"):
        assert first.poll() is None
        time.sleep(0.05)
    first.kill()
    first.wait()
    os.kill(int(log.read_text()), signal.SIGKILL)  # the compiler, which has lost its parent
    first.stdout.close()
    second = start(tmp_path, compiler(tmp_path, 0))
    assert second.communicate(timeout=100)[0].strip() == "12"
