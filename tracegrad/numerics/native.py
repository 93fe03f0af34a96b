"""Small C++ kernels for CPUs: compiled by the compiler of the machine on first use, kept, and called by ctypes.

Whatever has a kernel has a plain form in torch as well, which gives the same up to rounding and serves where there is
no compiler, on GPUs, under `torch.compile` and under transformations (`torch.func`, batched gradients, forward mode).
``TRACEGRAD_NATIVE=0`` in the environment turns all kernels off.

A kernel trusts its arguments. Addresses therefore come from `address`, which compares the tensor with the shape and
dtype that the kernel is called for, and from `Index`, whose entries were compared with the length of what they count;
numbers go through declared C types (`Function`).
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
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Parameter

from tracegrad.errors import TraceGradError
from tracegrad.system.locks import take_lock
from tracegrad.system.whole_files import replacing

SWITCH = "TRACEGRAD_NATIVE"
COMPILERS = ("c++", "g++", "clang++")  # after $CXX
FLAGS = ("-O2", "-fopenmp-simd", "-fno-math-errno", "-std=c++17", "-shared", "-fPIC")
SECONDS = 300.0  # until a compiler is given up
C_TYPES = {torch.float32: "float", torch.float64: "double"}
SMALLEST_SHARE = 2_000_000  # operations that are worth a thread of their own
ARGUMENTS = {"p": ctypes.c_void_p, "i": ctypes.c_int64, "d": ctypes.c_double}
log = logging.getLogger(__name__)
_one_at_a_time, _counting = threading.Lock(), threading.Lock()
_calls = 0


class KernelArgumentError(ValueError):
    """An argument for which a kernel would use memory that it does not have."""


class KernelIndexError(KernelArgumentError, IndexError):
    """An index that points outside of what it counts."""


@dataclass(frozen=True)
class Function:
    """A function of a compiled source.

    Args:
        name: of the function.
        arguments: a letter for each: p (address), i (int64_t) or d (double).
        fails: whether it returns an int that is not 0 where it fails, instead of nothing.
    """

    name: str
    arguments: str
    fails: bool = False


def enabled(*gradients: Tensor) -> bool:
    """Whether operators may have their own backward passes: not if switched off, compiled, transformed or batched."""
    return (
        os.environ.get(SWITCH, "1") != "0"
        and not torch.compiler.is_compiling()
        and not transformed(*gradients)
    )


def transformed(*gradients: Tensor) -> bool:
    """Whether operators run under `torch.func`, in forward mode or with batched gradients."""
    return not torch.compiler.is_compiling() and (
        torch._C._functorch.peek_interpreter_stack() is not None
        or torch.autograd.forward_ad._current_level >= 0
        or any(map(torch._C._functorch.is_legacy_batchedtensor, gradients))
    )


def usable(*tensors: Tensor) -> bool:
    """Whether kernels are wanted for these tensors: plain ones on the CPU, of one supported dtype."""
    dtypes = {x.dtype for x in tensors}
    return enabled() and all(map(_plain, tensors)) and len(dtypes) == 1 and dtypes <= C_TYPES.keys()


def _plain(x: Tensor) -> bool:
    return (
        type(x) in (Tensor, Parameter)
        and x.device.type == "cpu"
        and x.layout is torch.strided
        and not x.is_neg()
    )


def library(source: str, *functions: Function) -> ctypes.CDLL | None:
    """The compiled source, from the cache where it is; None, said once, where it cannot be compiled.

    Args:
        source: C++.
        functions: of the source that are called.
    """
    with _one_at_a_time:
        return _library(source, functions)


@lru_cache(maxsize=256)
def _library(source: str, functions: tuple[Function, ...]) -> ctypes.CDLL | None:
    try:
        path = _place(source)
        if not _sound(path):
            _compile_once(source, path)
        loaded = ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError, TraceGradError) as error:
        _say_once(str(error))
        return None
    for function in functions:
        call = getattr(loaded, function.name)
        call.argtypes = [ARGUMENTS[letter] for letter in function.arguments]
        call.restype = ctypes.c_int if function.fails else None
    return loaded


def used() -> int:
    """How often this process has called kernels."""
    return _calls


def address(
    name: str, x: Tensor, shape: tuple[int, ...], dtype: torch.dtype, *, strided: bool = False
) -> int:
    """Address of the first number of a tensor that is what a kernel is called for.

    Args:
        name: what messages call the tensor.
        x: the tensor; it has to live as long as the call.
        shape, dtype: that it must have.
        strided: whether the kernel knows the strides of all dimensions but the last, so that these are free.

    Raises:
        KernelArgumentError: it has another shape, dtype or device, is not contiguous or has no memory.
    """
    dense = x.layout is torch.strided and (
        x.is_contiguous() or (strided and x.ndim > 0 and (x.stride(-1) == 1 or x.shape[-1] <= 1))
    )
    if not dense or x.shape != shape or x.dtype is not dtype or not x.is_cpu or x.is_neg() or x.is_conj():
        layout = "" if dense else ", not contiguous"
        raise KernelArgumentError(
            f"{name}: a tensor of shape {tuple(x.shape)}, {x.dtype} on {x.device}{layout}; "
            f"a kernel needs a contiguous one of shape {tuple(shape)}, {dtype} on cpu"
        )
    found = x.data_ptr()
    if not found and x.numel():
        raise KernelArgumentError(
            f"{name}: a tensor of shape {tuple(shape)} without memory; give a plain one"
        )
    return found


def dense(x: Tensor) -> Tensor:
    """Contiguous, and with the signs in memory, as gradients need not be."""
    return x.resolve_conj().resolve_neg().contiguous()


@dataclass(frozen=True)
class Index:
    """Entries for a kernel, int64 or int32 and contiguous, each within 0 .. limit - 1; see `index`."""

    values: Tensor
    limit: int
    version: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "version", _version(self.values))

    def address(self, name: str, count: int, limit: int) -> int:
        """Address of the first entry.

        Args:
            name: what messages call the index.
            count: of the entries that the kernel reads.
            limit: length of what they count.

        Raises:
            KernelArgumentError: another count, or the entries were overwritten since they were checked.
            KernelIndexError: the index is one of something longer.
        """
        if self.limit > limit:
            raise KernelIndexError(f"{name}: an index of {self.limit} items; it is used for {limit}")
        if _version(self.values) != self.version:
            raise KernelArgumentError(f"{name}: overwritten since it was checked; give a copy")
        return address(name, self.values, (count,), self.values.dtype)


def _version(x: Tensor) -> int:
    return 0 if x.is_inference() else x._version


def index(name: str, x: Tensor, limit: int, dtype: torch.dtype = torch.int64) -> Index:
    """An index for kernels.

    Args:
        name: what messages call it.
        x: whole numbers in one dimension.
        limit: length of what it counts.
        dtype: int64 or int32.

    Raises:
        KernelArgumentError: no whole numbers, other dimensions.
        KernelIndexError: an entry is not within 0 .. limit - 1.
    """
    if x.ndim != 1 or x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
        raise KernelArgumentError(
            f"{name}: a tensor of shape {tuple(x.shape)}, {x.dtype}; an index is one row of whole numbers"
        )
    if limit > torch.iinfo(dtype).max:
        raise KernelIndexError(f"{name}: an index of {limit} items, which {dtype} cannot count")
    values = x.to(torch.int64).contiguous()
    if len(values):
        low, high = (int(y) for y in torch.aminmax(values))
        if low < 0 or high >= limit:
            raise KernelIndexError(
                f"{name}: an entry is {low if low < 0 else high}; it must be within 0 .. {limit - 1}"
            )
    return Index(values.to(dtype), limit)


def in_threads(run: Callable[[int, int], None], count: int, operations: int) -> None:
    """Call ``run(first, last)`` on shares of ``range(count)``, in as many threads as torch has and the work deserves.

    ctypes lets go of the interpreter while a kernel runs. Every call of a kernel goes through here and is counted.
    """
    global _calls
    with _counting:
        _calls += 1
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


def _compile_once(source: str, path: Path) -> None:
    """Compile unless another process does so meanwhile.

    The lock of a process that is killed ends with it. Where the file system knows no locks, several may compile.
    """
    place = path.with_suffix(".lock")
    try:
        lock = take_lock(place, patience=SECONDS)
    except TraceGradError:
        lock = None
    try:
        if not _sound(path):
            _compile(source, path)
    finally:
        if lock is not None:
            place.unlink(missing_ok=True)  # who waits for it sees that the file is another one
            os.close(lock)


def _compile(source: str, path: Path) -> None:
    command, _ = _command()
    log.info("compiling a kernel, once for this machine: %s", path)
    with replacing(path) as draft:
        call = [*command, "-x", "c++", "-", "-o", str(draft)]
        result = subprocess.run(call, input=source, capture_output=True, text=True, timeout=SECONDS)
        if result.returncode:
            lines = result.stderr.strip().splitlines() or ["no message"]
            said = next((line for line in lines if "error" in line), lines[-1])
            raise TraceGradError(f"{' '.join(command)} failed: {said}")
        digest = _digest(draft)
    with replacing(path.with_suffix(".sha256")) as draft:
        draft.write_text(digest)


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
