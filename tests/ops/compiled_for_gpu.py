"""The kernels of training steps, compiled for a GPU on a machine without one.

    TRITON_INTERPRET=0 python -m tests.ops.compiled_for_gpu float32 [float64] [--machine-code]

The interpreter, in which the other tests run the kernels, accepts more than Triton's compiler does. Operators are
called on the CPU with the arguments of small networks; their kernels are compiled, but not run. One JSON object is
printed for each kernel. With ``--machine-code`` compilations go on to the code of an H100, which takes minutes.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager, nullcontext
from itertools import product
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import CUDABackend
from triton.compiler import ASTSource

from tests import on_second_device
from tests.ops.forms import detached, needed_gradients
from tracegrad.ops import gpu
from tracegrad.ops.operator import Operator

TARGET = GPUTarget("cuda", 90, 32)  # compute capability 9.0: H100, H200
TYPES = {
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.bool: "*i1",
}
OPTIONS = ("num_warps", "num_stages")
STEPS = [("qhnet", "tracegrad"), ("deeph_e3", "tracegrad")]


class Checked(Exception):
    """Triton has accepted a kernel."""


@contextmanager
def without_machine_code() -> Any:
    """Compilations end when Triton has checked the source; what follows takes several times as long."""
    add_stages = CUDABackend.add_stages

    def stop(*_: Any) -> None:
        raise Checked

    def first_stage(self: Any, stages: dict[str, Any], *others: Any) -> None:
        add_stages(self, stages, *others)
        stages.update(dict.fromkeys(list(stages)[1:], stop))

    with patch.object(CUDABackend, "add_stages", first_stage):
        yield


class CompiledKernels:
    """Kernels by name, types of arguments and constants, with the seconds of each compilation."""

    def __init__(self) -> None:
        self.made: dict[tuple[Any, ...], dict[str, Any]] = {}

    def jit(self, **options: Any) -> Callable[[Any], Any]:
        """In place of `triton.jit`: what is launched is compiled for `TARGET` and not run."""
        unspecialized = options["do_not_specialize"]

        def compiling(function: Any) -> Any:
            kernel = triton.jit(function)

            class Launcher:
                def __getitem__(_, grid: Sequence[int]) -> Callable[..., None]:
                    return lambda *values, **named: self.compile(kernel, unspecialized, values, named)

            return Launcher()

        return compiling

    def compile(
        self, kernel: Any, unspecialized: Sequence[str], values: Sequence[Any], named: dict[str, Any]
    ) -> None:
        """The kernel for arguments like these, unless it is there already."""
        options = {name: named[name] for name in OPTIONS if name in named}
        arguments = dict(zip(kernel.arg_names, values, strict=False))
        arguments |= {name: value for name, value in named.items() if name not in options}
        assert list(arguments) == list(kernel.arg_names), (kernel.__name__, list(arguments), kernel.arg_names)
        constant = {kernel.arg_names[k] for k in kernel.constexprs}
        types = {name: type_of(x, name in constant, name in unspecialized) for name, x in arguments.items()}
        constants = {name: arguments[name] for name, kind in types.items() if kind == "constexpr"}
        key = (kernel.src, *types.items(), *constants.items(), *options.items())
        if key in self.made:
            return
        begin = time.perf_counter()
        source = ASTSource(fn=kernel, signature=types, constexprs=constants)
        self.made[key] = {"kernel": kernel.__name__}
        try:
            made = triton.compile(source, target=TARGET, options=options)
        except Checked:
            self.made[key] |= {"seconds": time.perf_counter() - begin}
            return
        except Exception as error:  # all kernels that fail are reported
            self.made[key] |= {"error": str(error)[-1000:]}
            return
        self.made[key] |= {
            "seconds": time.perf_counter() - begin,
            "shared": made.metadata.shared,
            "bytes": len(made.asm["cubin"]),
        }
        print(self.made[key], file=sys.stderr, flush=True)


def type_of(x: Any, is_constant: bool, is_unspecialized: bool) -> str:
    """Triton's name of an argument's type; a 1 is a constant, except where it must not cause a compilation."""
    if is_constant or x is None:
        return "constexpr"
    if isinstance(x, Tensor):
        return TYPES[x.dtype]
    if isinstance(x, bool):
        return "i1"
    if isinstance(x, float):
        return "fp32"
    if x == 1 and not is_unspecialized:
        return "constexpr"
    return "i32" if -(2**31) <= x < 2**31 else "i64"


@contextmanager
def calls_of_operators() -> Any:
    """All calls of operators in this context: the operator and its arguments."""
    calls: list[tuple[Operator, list[Any]]] = []
    call = Operator.__call__

    def recorded(operator: Operator, *arguments: Any) -> Any:
        calls.append((operator, [detached(x) for x in arguments]))
        return call(operator, *arguments)

    with patch.object(Operator, "__call__", recorded):
        yield calls


def compile_forms(operator: Operator, arguments: Sequence[Any]) -> None:
    """The kernels of the operator's form for GPUs and of all gradients."""
    if "CUDA" not in operator.forms:
        return
    form, gradient = operator.forms["CUDA"]
    made = form(*arguments)
    if made is None:  # the plain form is used, with a Triton that lacks what the kernel needs
        return
    results = [made] if operator.results == 1 else list(made)
    if gradient is not None:
        needed = next(needed_gradients(operator, arguments), None)
        if needed is not None:
            gradient([torch.zeros_like(y) for y in results], *arguments, needed)


def main(dtypes: Sequence[torch.dtype]) -> list[dict[str, Any]]:
    """The kernels of a training step of each network in each precision."""
    compiled = CompiledKernels()
    for network, arm in STEPS:
        torch.manual_seed(0)
        model, graph = on_second_device.small(network, arm)
        with calls_of_operators() as calls:
            on_second_device.step(model, graph)
        with patch.object(
            gpu, "triton", lambda: SimpleNamespace(jit=compiled.jit, __version__=triton.__version__)
        ):
            gpu.kernel.cache_clear()
            for dtype, (operator, arguments) in product(dtypes, calls):
                compile_forms(operator, [of_dtype(x, dtype) for x in arguments])
    return list(compiled.made.values())


def of_dtype(value: Any, dtype: torch.dtype) -> Any:
    """The value, with its real tensors in another precision."""
    if isinstance(value, list | tuple):
        return [of_dtype(x, dtype) for x in value]
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


if __name__ == "__main__":
    with nullcontext() if "--machine-code" in sys.argv else without_machine_code():
        for kernel in main([getattr(torch, word) for word in sys.argv[1:] if word != "--machine-code"]):
            print(json.dumps(kernel))
