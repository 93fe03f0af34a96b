"""Small C++ kernels for CPUs: compiled by the compiler of the machine on first use, kept, and called by ctypes.

Whatever has a kernel has a plain form in torch as well, which gives the same numbers and serves where there is no
compiler, on GPUs, under `torch.compile`, and for second derivatives. ``TRACEGRAD_NATIVE=0`` in the environment
turns all kernels off.
"""

import atexit
import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from tracegrad.atomic import replacing
from tracegrad.errors import TraceGradError

SWITCH = "TRACEGRAD_NATIVE"
COMPILERS = ("c++", "g++", "clang++")  # after $CXX
FLAGS = ("-O2", "-fopenmp-simd", "-std=c++17", "-shared", "-fPIC")
SECONDS = 300  # until a compiler is given up
C_TYPES = {torch.float32: "float", torch.float64: "double"}
SMALLEST_SHARE = 2_000_000  # operations that are worth a thread of their own
log = logging.getLogger(__name__)


def usable(*tensors: Tensor) -> bool:
    """Whether kernels are wanted for these tensors: on the CPU, of one supported dtype, and not under a compiler."""
    dtypes = {x.dtype for x in tensors}
    return (
        os.environ.get(SWITCH, "1") != "0"
        and not torch.compiler.is_compiling()
        and all(x.device.type == "cpu" for x in tensors)
        and len(dtypes) == 1
        and dtypes <= C_TYPES.keys()
    )


@lru_cache(maxsize=256)
def library(source: str) -> ctypes.CDLL | None:
    """The compiled source, from the cache where it is; None, said once, where it cannot be compiled."""
    try:
        path = _place(source)
        if path.exists():
            with suppress(OSError):  # a damaged file is made again
                return ctypes.CDLL(str(path))
        _compile(source, path)
        return ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError, TraceGradError) as error:
        _say_once(str(error))
        return None


def pointer(x: Tensor | None) -> ctypes.c_void_p | None:
    """Address of a contiguous tensor."""
    if x is None:
        return None
    assert x.is_contiguous()
    return ctypes.c_void_p(x.data_ptr())


def pointer_of_view(x: Tensor) -> ctypes.c_void_p:
    """Address of the first number of a tensor whose strides the kernel knows."""
    return ctypes.c_void_p(x.data_ptr())


def in_threads(run: Callable[[int, int], None], count: int, operations: int) -> None:
    """Call ``run(first, last)`` on shares of ``range(count)``, in as many threads as torch has and the work deserves.

    ctypes lets go of the interpreter while a kernel runs.
    """
    threads = min(torch.get_num_threads(), max(count, 1), max(1, operations // SMALLEST_SHARE))
    if threads == 1:
        run(0, count)
        return
    bounds = [count * k // threads for k in range(threads + 1)]
    with ThreadPoolExecutor(threads - 1) as pool:
        others = [pool.submit(run, *share) for share in pairwise(bounds[1:])]
        run(0, bounds[1])
        for other in others:
            other.result()


@lru_cache(maxsize=1)
def _command() -> tuple[tuple[str, ...], str]:
    """The compiler with its flags, and what its result depends on: its version and the processor."""
    found = os.environ.get("CXX", "").split() or [c for c in COMPILERS if shutil.which(c)][:1]
    if not found:
        raise TraceGradError("no C++ compiler is installed (g++ or clang++), or set CXX")
    version = subprocess.run(
        [*found, "--version"], capture_output=True, text=True, check=True, timeout=SECONDS
    )
    command = (*found, *FLAGS, "-march=native")
    if subprocess.run(
        [*command, "-x", "c++", "-E", os.devnull], capture_output=True, timeout=SECONDS
    ).returncode:
        command = command[:-1]  # some compilers do not know "native" for their processor
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        processor = platform.processor()
    return command, "\0".join((version.stdout, platform.machine(), processor))


@lru_cache(maxsize=1)
def _folder() -> Path:
    """Where compiled kernels are kept; one of this process alone where the user's cache cannot be written."""
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(base) / "tracegrad" / "kernels"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.access(folder, os.W_OK) and folder.stat().st_uid == os.getuid():
            return folder
    except (OSError, RuntimeError):  # no home
        pass
    own = tempfile.mkdtemp(prefix="tracegrad-kernels-")
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    return Path(own)


def _place(source: str) -> Path:
    command, target = _command()
    key = hashlib.sha256("\0".join((source, *command, target)).encode()).hexdigest()[:32]
    return _folder() / f"{key}.so"


def _compile(source: str, path: Path) -> None:
    command, _ = _command()
    with replacing(path) as draft:
        call = [*command, "-x", "c++", "-", "-o", str(draft)]
        result = subprocess.run(call, input=source, capture_output=True, text=True, timeout=SECONDS)
        if result.returncode:
            lines = result.stderr.strip().splitlines() or ["no message"]
            said = next((line for line in lines if "error" in line), lines[-1])
            raise TraceGradError(f"{' '.join(command)} failed: {said}")


@lru_cache(maxsize=8)
def _say_once(reason: str) -> None:
    log.warning(
        "the C++ kernels are not used, the networks run several times slower: %s. %s=0 silences this.",
        reason,
        SWITCH,
    )
