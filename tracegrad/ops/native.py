"""Small C++ kernels for CPUs: compiled on first use by the compiler of the machine, cached, and called by ctypes.

Every operator with a kernel has a plain form in torch as well. It gives the same numbers up to rounding, and is used
where there is no compiler, on GPUs, under `torch.compile` and under transformations (`torch.func`, batched gradients,
forward mode). ``TRACEGRAD_NATIVE=0`` in the environment turns all kernels off, those for GPUs included.

A kernel does not check its arguments. The operator (`operator.py`) therefore compares shapes and dtypes before any
form runs, entries of indices are compared with the length of the axis that they index by `index`, and numbers are
passed as declared C types (`Function`).
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
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from tracegrad.errors import TraceGradError
from tracegrad.ops.errors import OperatorArgumentError, OperatorIndexError
from tracegrad.system.locks import take_lock
from tracegrad.system.whole_files import replacing

SWITCH = "TRACEGRAD_NATIVE"
COMPILERS = ("c++", "g++", "clang++")  # tried in this order if $CXX is not set
FLAGS = ("-O2", "-fopenmp-simd", "-fno-math-errno", "-std=c++17", "-shared", "-fPIC")
SECONDS = 300.0  # time limit of a compiler, and of waiting for the compiler of another process
C_TYPES = {torch.float32: "float", torch.float64: "double"}
SMALLEST_SHARE = 2_000_000  # operations from which a separate thread saves time
ARGUMENTS = {"p": ctypes.c_void_p, "i": ctypes.c_int64, "d": ctypes.c_double}
log = logging.getLogger(__name__)
_library_lock, _count_lock = threading.Lock(), threading.Lock()
_calls = 0


@dataclass(frozen=True)
class Function:
    """A function of a compiled source.

    Args:
        name: of the function.
        arguments: a letter for each argument: p (address), i (int64_t) or d (double).
        fails: whether it returns an int, which is not 0 if it failed, instead of nothing.
    """

    name: str
    arguments: str
    fails: bool = False


def switched_on() -> bool:
    """Whether kernels are not switched off, those for GPUs included."""
    return os.environ.get(SWITCH, "1") != "0"


def available() -> bool:
    """Whether kernels are `switched_on` and there is a compiler; if there is none, a warning says so once."""
    return switched_on() and _has_compiler()


@lru_cache(maxsize=1)
def _has_compiler() -> bool:
    try:
        _command()
    except (OSError, subprocess.SubprocessError, TraceGradError) as error:
        _warn_once(str(error))
        return False
    return True


def library(source: str, *functions: Function) -> ctypes.CDLL | None:
    """The compiled source, from the cache if it is there.

    Args:
        source: C++.
        functions: those that will be called.

    Returns:
        The library, or None if it cannot be compiled; a warning says so once.
    """
    with _library_lock:
        return _library(source, functions)


@lru_cache(maxsize=256)
def _library(source: str, functions: tuple[Function, ...]) -> ctypes.CDLL | None:
    try:
        path = _cache_path(source)
        if not _is_intact(path):
            _compile_once(source, path)
        loaded = ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError, TraceGradError) as error:
        _warn_once(str(error))
        return None
    for function in functions:
        call = getattr(loaded, function.name)
        call.argtypes = [ARGUMENTS[letter] for letter in function.arguments]
        call.restype = ctypes.c_int if function.fails else None
    return loaded


def file_library(name: str, dtype: torch.dtype, *functions: Function, **macros: int) -> ctypes.CDLL | None:
    """The compiled file ``csrc/NAME`` with the macro REAL defined as the type of the numbers.

    Args:
        name: of the file.
        dtype: of the numbers.
        functions: those that will be called.
        macros: other macros and their values.

    Returns:
        The library, or None for a dtype without kernels or if the file cannot be compiled.
    """
    if dtype not in C_TYPES:
        return None
    return library(_file_source(name, ("REAL", C_TYPES[dtype]), *macros.items()), *functions)


@lru_cache(maxsize=256)
def _file_source(name: str, *macros: tuple[str, str | int]) -> str:
    defined = "".join(f"#define {macro} {value}\n" for macro, value in macros)
    return defined + (Path(__file__).parent / "csrc" / name).read_text(encoding="utf-8")


def used() -> int:
    """Number of kernel calls of this process so far."""
    return _calls


def pointer(x: Tensor | None) -> int | None:
    """Address of a contiguous tensor whose shape has been checked; it must exist until the kernel has returned."""
    return None if x is None else x.data_ptr()


def pointers(tensors: Sequence[Tensor | None]) -> ctypes.Array:
    """Array of the addresses of contiguous tensors, see `pointer`."""
    return (ctypes.c_void_p * len(tensors))(*map(pointer, tensors))


def dense(x: Tensor) -> Tensor:
    """The tensor as kernels read it: contiguous, with conjugation and negation carried out; gradients may be lazy."""
    return x.resolve_conj().resolve_neg().contiguous()


def index(name: str, x: Tensor, limit: int, dtype: torch.dtype = torch.int64) -> Tensor:
    """The index as kernels read it: contiguous, of the dtype, each entry within 0 .. limit - 1.

    Args:
        name: of the index in messages.
        x: whole numbers in one dimension.
        limit: length of the axis that it indexes.
        dtype: int64 or int32.

    Raises:
        OperatorArgumentError: the numbers are not whole, or have more or fewer dimensions.
        OperatorIndexError: an entry is not within 0 .. limit - 1.
    """
    if x.ndim != 1 or x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
        raise OperatorArgumentError(
            f"{name}: a tensor of shape {tuple(x.shape)}, {x.dtype}; an index has whole numbers in one dimension"
        )
    if limit > torch.iinfo(dtype).max:
        raise OperatorIndexError(f"{name}: an index into {limit} items, too many for {dtype}; give fewer")
    values = x.to(torch.int64).contiguous()
    # The limit is kept with the index, which many operators share. Inference mode does not notice changes.
    checked = None if x.is_inference() else (limit, x._version)
    if len(values) and (checked is None or getattr(x, "_tracegrad_checked", None) != checked):
        low, high = (int(y) for y in torch.aminmax(values))
        if low < 0 or high >= limit:
            raise OperatorIndexError(
                f"{name}: an entry is {low if low < 0 else high}; it must be within 0 .. {limit - 1}"
            )
    if checked is not None:
        x._tracegrad_checked = checked  # type: ignore[attr-defined]
    return values.to(dtype)


def in_threads(run: Callable[[int, int], None], count: int, operations: int) -> None:
    """Call ``run(first, last)`` on shares of ``range(count)`` in parallel.

    There are at most as many threads as torch has, and each gets at least `SMALLEST_SHARE` operations. ctypes
    releases the interpreter lock while a kernel runs. Every kernel is called through this function and counted.

    Args:
        run: calls the kernel for the items first .. last - 1.
        count: number of items.
        operations: of all items together, roughly.
    """
    global _calls
    with _count_lock:
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
    """The compiler with its flags, and its version with the processor, on which its result depends.

    Raises:
        TraceGradError: there is no compiler.
    """
    compiler = os.environ.get("CXX", "").split() or [c for c in COMPILERS if shutil.which(c)][:1]
    if not compiler:
        raise TraceGradError("no C++ compiler was found; install g++ or clang++, or set CXX")
    version = subprocess.run(
        [*compiler, "--version"], capture_output=True, text=True, check=True, timeout=SECONDS
    )
    command = (*compiler, *FLAGS, "-march=native")
    if subprocess.run(
        [*command, "-x", "c++", "-E", os.devnull], capture_output=True, timeout=SECONDS
    ).returncode:
        command = command[:-1]  # the compiler does not support "native" for this processor
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        processor = platform.processor()
    return command, "\0".join((version.stdout, platform.machine(), processor))


@lru_cache(maxsize=1)
def _folder() -> Path:
    """Folder of compiled kernels: in the user's cache, or a temporary folder if that cannot be used safely."""
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(base) / "tracegrad" / "kernels"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = folder.stat()
        # Code is loaded from this folder, so nobody else may write to it.
        if os.access(folder, os.W_OK) and status.st_uid == os.getuid() and not status.st_mode & 0o022:
            return folder
    except (OSError, RuntimeError):  # RuntimeError: no home directory
        pass
    temporary = tempfile.mkdtemp(prefix="tracegrad-kernels-")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return Path(temporary)


def _cache_path(source: str) -> Path:
    """File of the compiled source; its name depends on the source, the compiler and the processor."""
    command, target = _command()
    key = hashlib.sha256("\0".join((source, *command, target)).encode()).hexdigest()[:32]
    return _folder() / f"{key}.so"


def _compile_once(source: str, path: Path) -> None:
    """Compile, unless another process has done so in the meantime.

    The lock of a process that is killed ends with the process. On a file system without locks several processes may
    compile the same source.
    """
    lock_file = path.with_suffix(".lock")
    try:
        lock = take_lock(lock_file, patience=SECONDS)
    except TraceGradError:
        lock = None
    try:
        if not _is_intact(path):
            _compile(source, path)
    finally:
        if lock is not None:
            lock_file.unlink(missing_ok=True)  # waiting processes notice that the file was replaced
            os.close(lock)


def _compile(source: str, path: Path) -> None:
    command, _ = _command()
    log.info("compiling a kernel, once for this machine: %s", path)
    with replacing(path) as draft:
        arguments = [*command, "-x", "c++", "-", "-o", str(draft)]
        result = subprocess.run(arguments, input=source, capture_output=True, text=True, timeout=SECONDS)
        if result.returncode:
            lines = result.stderr.strip().splitlines() or ["no message"]
            message = next((line for line in lines if "error" in line), lines[-1])
            raise TraceGradError(f"{' '.join(command)} failed: {message}")
        digest = _digest(draft)
    with replacing(path.with_suffix(".sha256")) as draft:
        draft.write_text(digest)


def _is_intact(path: Path) -> bool:
    """Whether the file exists and has its checksum; loading an incomplete file can crash the process."""
    try:
        return path.with_suffix(".sha256").read_text() == _digest(path)
    except OSError:
        return False


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@lru_cache(maxsize=8)
def _warn_once(reason: str) -> None:
    log.warning(
        "the C++ kernels are not used and the networks run several times slower: %s. %s=0 silences this warning.",
        reason,
        SWITCH,
    )
