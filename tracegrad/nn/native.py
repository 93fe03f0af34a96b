"""Small C++ kernels for CPUs: compiled by the compiler of the machine on first use, kept, and called by ctypes.

Whatever has a kernel has a plain form in torch as well, which gives the same up to rounding and serves where there is
no compiler, on GPUs, under `torch.compile` and under transformations (`torch.func`, batched gradients, forward mode).
``TRACEGRAD_NATIVE=0`` in the environment turns all kernels off.
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
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Parameter

from tracegrad.errors import TraceGradError

SWITCH = "TRACEGRAD_NATIVE"
COMPILERS = ("c++", "g++", "clang++")  # after $CXX
FLAGS = ("-O2", "-fopenmp-simd", "-fno-math-errno", "-std=c++17", "-shared", "-fPIC")
SECONDS = 300  # until a compiler is given up
C_TYPES = {torch.float32: "float", torch.float64: "double"}
SMALLEST_SHARE = 2_000_000  # operations that are worth a thread of their own
log = logging.getLogger(__name__)
_one_at_a_time = threading.Lock()


def wanted(*gradients: Tensor) -> bool:
    """Whether operators may have their own backward passes: not if switched off, compiled, transformed or batched."""
    return (
        os.environ.get(SWITCH, "1") != "0"
        and not torch.compiler.is_compiling()
        and torch._C._functorch.peek_interpreter_stack() is None
        and torch.autograd.forward_ad._current_level < 0
        and not any(map(torch._C._functorch.is_legacy_batchedtensor, gradients))
    )


def usable(*tensors: Tensor) -> bool:
    """Whether kernels are wanted for these tensors: plain ones on the CPU, of one supported dtype."""
    dtypes = {x.dtype for x in tensors}
    return (
        wanted()
        and all(type(x) in (Tensor, Parameter) and x.device.type == "cpu" and not x.is_neg() for x in tensors)
        and len(dtypes) == 1
        and dtypes <= C_TYPES.keys()
    )


def library(source: str) -> ctypes.CDLL | None:
    """The compiled source, from the cache where it is; None, said once, where it cannot be compiled."""
    with _one_at_a_time:
        return _library(source)


@lru_cache(maxsize=256)
def _library(source: str) -> ctypes.CDLL | None:
    try:
        path = _place(source)
        if not _sound(path):
            _compile(source, path)
        return ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError, TraceGradError) as error:
        _say_once(str(error))
        return None


def pointer(x: Tensor | None) -> ctypes.c_void_p | None:
    """Address of a contiguous tensor."""
    if x is None:
        return None
    if not x.is_contiguous():
        raise ValueError(
            f"a kernel needs contiguous tensors, not strides {x.stride()} for a shape of {tuple(x.shape)}"
        )
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
        status = folder.stat()
        # Code is loaded from there: nobody else may write it.
        if os.access(folder, os.W_OK) and status.st_uid == os.getuid() and not status.st_mode & 0o022:
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
    log.info("compiling a kernel, once for this machine: %s", path)
    with tempfile.TemporaryDirectory(
        dir=path.parent
    ) as folder:  # of this thread of this process on this host alone
        draft = Path(folder) / path.name
        call = [*command, "-x", "c++", "-", "-o", str(draft)]
        result = subprocess.run(call, input=source, capture_output=True, text=True, timeout=SECONDS)
        if result.returncode:
            lines = result.stderr.strip().splitlines() or ["no message"]
            said = next((line for line in lines if "error" in line), lines[-1])
            raise TraceGradError(f"{' '.join(command)} failed: {said}")
        digest = Path(folder) / "digest"
        digest.write_text(_digest(draft))
        draft.replace(path)
        digest.replace(path.with_suffix(".sha256"))


def _sound(path: Path) -> bool:
    """Whether the file is there as it was made; loading a torn one can end the process."""
    try:
        return path.with_suffix(".sha256").read_text() == _digest(path)
    except OSError:
        return False


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@lru_cache(maxsize=8)
def _say_once(reason: str) -> None:
    log.warning(
        "the C++ kernels are not used, the networks run several times slower: %s. %s=0 silences this.",
        reason,
        SWITCH,
    )
