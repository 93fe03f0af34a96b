"""Features and irreps for the tests of the TraceGrad block."""

import torch
from e3nn import o3

from tests.oracles.autograd_tracegrad import to_parts

UNEVEN = o3.Irreps("12x1o+5x1e+3x0e+2x1o")


SMALL = o3.Irreps("3x0e+2x1e+1x2e+2x3e")


def make_feature(irreps: o3.Irreps, items: int = 4) -> list[torch.Tensor]:
    flat = torch.randn(items, irreps.dim, dtype=torch.float64, requires_grad=True)
    return [part.detach().clone().requires_grad_() for part in to_parts(flat, irreps)]
