"""The TraceGrad block in plain e3nn: u by the tensor product of Eq. 6, v by automatic differentiation."""

import math

import torch
from e3nn import o3
from torch import Tensor, nn

from tests.oracles.autograd_tracegrad import dense_weights
from tracegrad.nn.invariant.gram import FullInvariants, LowRankInvariants, pair_scale
from tracegrad.nn.invariant.tracegrad import TraceGradBlock


class FullProduct(nn.Module):
    """u with a full W: one tensor product of the feature with itself."""

    def __init__(self, block: TraceGradBlock, irreps: o3.Irreps, channels: int):
        super().__init__()
        self.product = o3.FullyConnectedTensorProduct(irreps, irreps, [(channels, "0e")])
        with torch.no_grad():
            self.product.weight.copy_(torch.cat([w.flatten() for w in dense_weights(block)]))

    def forward(self, f: Tensor) -> Tensor:
        return self.product(f, f)


class LowRankProduct(nn.Module):
    """u with a low-rank W: two linear maps, whose results are multiplied channel by channel."""

    def __init__(self, form: LowRankInvariants, irreps: o3.Irreps, channels: int):
        super().__init__()
        mapped = o3.Irreps([(channels, ir) for _, ir in irreps])
        maps = [o3.Linear(irreps, mapped) for _ in range(2)]
        self.maps = nn.ModuleList(maps)
        self.product = o3.TensorProduct(
            mapped,
            mapped,
            [(channels, "0e")],
            [(i, i, 0, "uuu", False) for i in range(len(mapped))],
            irrep_normalization="none",
            path_normalization="none",
        )
        self.scale: float = pair_scale(irreps)
        with torch.no_grad():
            halves = zip(*(weight.chunk(2, dim=1) for weight in form.weights), strict=True)
            for linear, parts in zip(maps, halves, strict=True):
                # e3nn divides by the root of the number of channels.
                linear.weight.copy_(torch.cat([(math.sqrt(len(w)) * w).flatten() for w in parts]))

    def forward(self, f: Tensor) -> Tensor:
        first, second = self.maps
        product: Tensor = self.product(first(f), second(f))
        return product * self.scale


class PlainBlock(nn.Module):
    """z and v with the weights of a `TraceGradBlock`, for a feature in e3nn's layout that requires a gradient."""

    def __init__(self, block: TraceGradBlock, irreps: o3.Irreps, channels: int):
        super().__init__()
        form = block.invariants
        self.invariants: nn.Module
        if isinstance(form, FullInvariants):
            self.invariants = FullProduct(block, irreps, channels)
        elif isinstance(form, LowRankInvariants):
            self.invariants = LowRankProduct(form, irreps, channels)
        else:
            raise ValueError(f"no plain form of {type(form).__name__}")
        self.s_nonlin = block.s_nonlin

    def forward(self, f: Tensor, *, differentiable: bool) -> tuple[Tensor, Tensor]:
        z = self.s_nonlin(self.invariants(f))
        (v,) = torch.autograd.grad(z.sum(), f, create_graph=differentiable)
        return z, v
