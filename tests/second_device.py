"""A second device without a second device: what a GPU would do and refuse, seen on a machine that has none.

Tensors of the device "second" are wrappers around tensors of the CPU, which compute their numbers, so that results
are those of the CPU to the last bit. As on a GPU, an operation on tensors of both devices raises an error, and the
host knows no number of the device without waiting for it. Counted are

- *launches*: operations that a GPU would launch; an operator of `torch.library` is one. Views and allocations launch
  nothing, and copies from the host are no launches but *transfers*;
- *waits*: operations for which the host waits, because it needs a number or a size from the device;
- *bytes*: what the launches read and write.

The device is a backend of torch in Python ("PrivateUse1"), which changes the whole process (torch.accelerator,
threads of autograd). Tests therefore use it in a process of its own. A device that only calls itself "meta" cannot do
this: torch makes real tensors of that device, without numbers, where it reads lists and Python numbers itself, as in
``x[:, [1, 2, 0]]`` and ``torch.as_tensor(0.5, device=x.device)``, and then operations meet both kinds.
"""

import linecache
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._pytree import tree_flatten, tree_map

ROOT = Path(__file__).parents[1]
FOLDERS = tuple(f"{ROOT / name}/" for name in ("tracegrad", "callbacks", "experiments"))
INSIDE = tuple(
    f"{ROOT / 'tracegrad' / name}" for name in ("ops/", "numerics/precision.py")
)  # their callers count
NAME = "second"
DEVICE = f"{NAME}:0"
CPU = torch.device("cpu")
AVAILABLE = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")
ALLOCATIONS = ("empty", "new_empty", "lift_fresh", "_unsafe_view", "_reshape_alias")
WAITING = (
    *("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "bincount"),
    *("_unique2", "unique_dim", "unique_consecutive", "_linalg_check_errors"),
)
# Factories that torch would compute by writing into an empty tensor and changing its size.
FACTORIES = (
    "copy_",
    "arange",
    "arange.start",
    "arange.start_step",
    "eye",
    "eye.m",
    "linspace",
    "randperm",
    "tril_indices",
)
TO_HOST = ("_local_scalar_dense", "is_nonzero", "equal")  # their results are no tensors of the device
# Views that change numbers when these are read, which kernels of the CPU would not do here.
AT_ONCE = {
    torch.ops.aten._conj.default: torch.ops.aten.conj_physical.default,
    torch.ops.aten._neg_view.default: torch.ops.aten.neg.default,
}
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")  # a GPU takes indices from the host


@dataclass
class Counts:
    """What happened; waits and transfers with the lines of code that asked for them."""

    launches: int = 0
    bytes: int = 0
    operations: Counter[str] = field(default_factory=Counter)
    lines: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)
    transfers: Counter[str] = field(default_factory=Counter)


_counts: list[Counts] = []


class Wrapper(Tensor):
    """A tensor of the second device around one of the CPU."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Wrapper":
        outer = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(DEVICE),
        )
        outer.inner = inner
        return outer

    def __repr__(self) -> str:
        return f"Wrapper({self.inner})"

    def tolist(self) -> Any:
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function.decompose(*args, **(kwargs or {}))  # in inference mode autograd has not done it
        return run(function, *args, **(kwargs or {})) if result is NotImplemented else result


class Module(backend_registration._DummyBackendModule if AVAILABLE else object):  # type: ignore[misc]
    """What torch asks of the module of a device, ``torch.second``."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


def start() -> None:
    """Make the device known to torch, for the rest of the process and before its first backward pass."""
    global _libraries
    backend_registration._setup_privateuseone_for_python_backend(NAME, Module())
    _libraries = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    _libraries[0].fallback(
        run, "PrivateUse1"
    )  # operations without a tensor of the device, such as torch.empty
    for name in FACTORIES:
        packet, _, overload = name.partition(".")
        function = getattr(getattr(torch.ops.aten, packet), overload or "default")
        _libraries[1].impl(name, partial(run, function), "PrivateUse1")


@contextmanager
def counting() -> Iterator[Counts]:
    """Counts of what happens inside."""
    _counts.append(Counts())
    try:
        yield _counts[-1]
    finally:
        _counts.pop()


def run(function: Any, *args: Any, **kwargs: Any) -> Any:
    """An operation on the second device, computed by the CPU."""
    function = AT_ONCE.get(function, function)
    name = function.name().removeprefix("aten::").split(".")[0]
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
    there = any(isinstance(x, Wrapper) for x in tensors)
    here = any(not isinstance(x, Wrapper) and x.ndim > 0 for x in tensors)
    target = kwargs.get("device")
    on_host = there and target is not None and torch.device(target).type == "cpu"
    if there and here and name not in (*INDEXING, "copy_"):
        raise RuntimeError(f"{name}: tensors on the host and on the second device, at {place()}")
    if target is not None:
        kwargs["device"] = CPU
    result = function(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    _count(function, name, args, tensors, here, on_host, result)
    if on_host or name in TO_HOST:
        return result
    if _in_place(function):
        return kwargs.get("out", args[0])
    # torch wants a view of an ordinary tensor to be an ordinary one, also in inference mode.
    of_inference = args[0].is_inference() if _is_view(function) else torch.is_inference_mode_enabled()
    with torch.inference_mode(of_inference):
        return tree_map(lambda x: Wrapper(x) if isinstance(x, Tensor) else x, result)


def _inner(x: Any) -> Any:
    return x.inner if isinstance(x, Wrapper) else x


def _in_place(function: Any) -> bool:
    """Whether the operation returns the tensor that it writes to: its first argument, or ``out``."""
    returned = function._schema.returns
    return len(returned) == 1 and returned[0].alias_info is not None and returned[0].alias_info.is_write


def _is_view(function: Any) -> bool:
    returned = function._schema.returns
    return bool(returned) and all(x.alias_info is not None and not x.alias_info.is_write for x in returned)


def _count(
    function: Any, name: str, args: Any, tensors: list[Tensor], here: bool, on_host: bool, result: Any
) -> None:
    if not _counts or _is_view(function) or name.startswith(ALLOCATIONS):
        return
    counts = _counts[-1]
    if name == "copy_" and isinstance(args[0], Wrapper) != isinstance(args[1], Wrapper):
        (counts.transfers if isinstance(args[0], Wrapper) else counts.waits)[f"copy: {place()}"] += 1
        return
    masks = name in INDEXING and any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1])
    sizes = name == "repeat_interleave" and args[0].ndim > 0 and "output_size" not in str(function._schema)
    if on_host or name in WAITING or masks or sizes:
        counts.waits[f"{name}: {place()}"] += 1
    if name in TO_HOST or on_host:
        return
    if name in INDEXING and here:
        counts.transfers[f"{name}: {place()}"] += 1
    counts.launches += 1
    counts.operations[name] += 1
    counts.lines[place()] += 1
    made = [x for x in tree_flatten(result)[0] if isinstance(x, Tensor)]
    counts.bytes += sum(x.numel() * x.element_size() for x in (*tensors, *made))


def place() -> str:
    """The innermost line of this project that is being run."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith(FOLDERS) and not frame.f_code.co_filename.startswith(INSIDE):
            file, line = frame.f_code.co_filename, frame.f_lineno
            return f"{Path(file).relative_to(ROOT)}:{line} {linecache.getline(file, line).strip()}"
        frame = frame.f_back
    return "elsewhere"
