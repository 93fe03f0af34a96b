"""Number of operations of matrix products, and the rate of matrix products of this machine."""

import time
from collections.abc import Callable
from functools import partial

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.timing import synchronize
from tracegrad.ops.degree_linear import DEGREE_LINEAR
from tracegrad.ops.matrix_product import LINEAR, product

aten = torch.ops.aten
# Operators of matrix products, with the position of the left factor among their arguments.
PRODUCTS = {aten.mm: 0, aten.bmm: 0, aten.addmm: 1, aten.addmm_: 1, aten.baddbmm: 1, aten.baddbmm_: 1}
PRODUCTS |= {operator.forward.overloadpacket: 0 for operator in (DEGREE_LINEAR, LINEAR)}

# (rows, inner, columns) of products that are timed: a square one; a linear map of channels for all components of all
# edges; and a Gram matrix times W.
SHAPES = ((1024, 1024, 1024), (30600, 128, 128), (3312, 2816, 1024))
ROUNDS = 5


class ProductCounter(TorchDispatchMode):
    """Counts the operations of matrix products, forward and backward, except those inside compiled kernels.

    torch's own `FlopCounterMode` follows modules as well, which fails in inference mode.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (DEGREE_LINEAR.gradient, LINEAR.gradient):
            (gradient,), x, *_, needed = args
            self.operations += 2 * gradient.numel() * x.shape[-1] * sum(needed[:2])
        left = PRODUCTS.get(func._overloadpacket)
        if left is not None:
            result = func(*args, **kwargs)
            self.operations += 2 * result.numel() * args[left].shape[-1]
            return result
        # In inference mode composite operators arrive here without having been decomposed.
        with self:
            parts = func.decompose(*args, **kwargs)
        return func(*args, **kwargs) if parts is NotImplemented else parts


def product_gflop(call: Callable[[], object]) -> float:
    """1e9 floating-point operations of the matrix products of a call."""
    with ProductCounter() as counter:
        call()
    return counter.operations / 1e9


def product_rates(device: str) -> dict[str, float]:
    """Best rate (GFLOP/s) in float32 for each shape, with torch's product or that of TraceGrad."""
    rates = {}
    for rows, inner, columns in SHAPES:
        a, b = torch.randn(rows, inner, device=device), torch.randn(inner, columns, device=device)
        ways = (partial(torch.mm, out=torch.empty(rows, columns, device=device)), product)
        seconds = []
        for way in ways * ROUNDS:
            synchronize(device)
            start = time.perf_counter()
            way(a, b)
            synchronize(device)
            seconds.append(time.perf_counter() - start)
        rates[f"{rows} x {inner} x {columns}"] = 2e-9 * rows * inner * columns / min(seconds)
    return rates
