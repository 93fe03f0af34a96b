"""Triton kernels for GPUs: where Triton is, kernels from generated source, and sums over segments.

Triton is imported when a kernel is needed first, because importing torch and TraceGrad must not need it. With
``TRITON_INTERPRET=1`` in the environment kernels run on CPU tensors, in Python; the tests do that.
"""

import hashlib
import linecache
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

HEADER = "import triton\nimport triton.language as tl\n\n\n"


@lru_cache(maxsize=1)
def triton() -> Any:
    """The package, or None where it is not installed or has no driver."""
    try:
        import triton
    except ImportError:
        return None
    return triton


@lru_cache(maxsize=256)
def kernel(source: str, name: str) -> Any:
    """A kernel from source that defines it as a plain function ``name``; its integers are not specialised.

    Args:
        source: Python; ``triton`` and ``tl`` are imported. Arguments of the kernel whose names end in ``_count`` are
            numbers that change from batch to batch and do not cause another compilation.
        name: of the function.
    """
    module = triton()
    assert module is not None
    whole = HEADER + source
    file = f"<tracegrad {name} {hashlib.sha256(whole.encode()).hexdigest()[:12]}>"
    # Triton reads the source of a function through `inspect`, which asks `linecache` for files that do not exist.
    linecache.cache[file] = (len(whole), None, whole.splitlines(keepends=True), file)
    names: dict[str, Any] = {"__name__": f"tracegrad.ops.generated_{name}"}
    exec(compile(whole, file, "exec"), names)  # generated above, from tables of this package
    function = names[name]
    arguments = function.__code__.co_varnames[: function.__code__.co_argcount]
    counts = [argument for argument in arguments if argument.endswith("_count")]
    return module.jit(do_not_specialize=counts)(function)


def multiplies(dtype: torch.dtype) -> bool:
    """Whether Triton's compiler takes products of blocks (`tl.dot`) of a dtype.

    Triton 3.4, that of torch 2.8, refuses double precision; 3.9 was tried and takes it.
    """
    module = triton()
    return dtype != torch.float64 or tuple(map(int, module.__version__.split(".")[:2])) >= (3, 9)


def next_power_of_2(n: int) -> int:
    """The smallest power of 2 that is not less than n; blocks of Triton have such lengths."""
    return 1 << max(n - 1, 0).bit_length()


def segments(index: Int[Tensor, " n"], count: int) -> tuple[Int[Tensor, " n"], Int[Tensor, " {count}+1"]]:
    """The entries of an index in the order of their values, and where those of each value start.

    Sums over entries with the same value, taken in this order, are deterministic. The result is kept with the
    index, which many operators share. Values that are not within 0 .. count - 1 are in no segment.
    """
    kept = getattr(index, "_tracegrad_segments", None)
    version = 0 if index.is_inference() else index._version
    if kept is not None and kept[:2] == (version, count):
        return kept[2:]
    values, order = index.sort(stable=True)
    starts = torch.searchsorted(values, torch.arange(count + 1, device=index.device, dtype=index.dtype))
    index._tracegrad_segments = (version, count, order, starts)  # type: ignore[attr-defined]
    return order, starts
