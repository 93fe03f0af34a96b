"""Task "tracegrad": one TraceGrad block with the closed form of v, and with automatic differentiation."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from e3nn.o3 import Irreps

from benchmarks.compare import compare
from benchmarks.plain_block import PlainBlock
from benchmarks.timing import Timing
from tests.oracles.autograd_tracegrad import to_irreps
from tracegrad.nn.interface import ComponentFirstFeature
from tracegrad.nn.invariant.tracegrad import TraceGradBlock


@dataclass(frozen=True)
class BlockSizes:
    """Sizes of a block, and the number of edges in its feature."""

    name: str
    irreps: str
    w: Literal["full", "low_rank"]
    width: int
    edges: int
    channels: int = 1024


# As in the recipes: QHNet for four molecules of 18 atoms, DeepH-E3 for 72 atoms of graphene.
FULL = (
    BlockSizes("QHNet, low-rank W", "128x0e+128x1e+128x2e+128x3e+128x4e", "low_rank", 36, 1224),
    BlockSizes("DeepH-E3, full W", "64x0e+32x1o+16x2e+8x3o+8x4e", "full", 25, 3312),
)
SMALL = (
    BlockSizes("QHNet, low-rank W", "4x0e+4x1e", "low_rank", 4, 10, 8),
    BlockSizes("DeepH-E3, full W", "4x0e+2x1o", "full", 4, 10, 8),
)


@dataclass
class Case:
    """A block, its plain form, and the same feature in the layouts of both."""

    sizes: BlockSizes
    block: TraceGradBlock
    plain: PlainBlock
    parts: ComponentFirstFeature
    flat: torch.Tensor

    @classmethod
    def draw(cls, sizes: BlockSizes, device: str) -> "Case":
        irreps = Irreps(sizes.irreps)
        block = TraceGradBlock(irreps, sizes.channels, sizes.width, w=sizes.w, hidden=sizes.channels)
        plain = PlainBlock(block, irreps, sizes.channels)
        parts = [torch.randn(ir.dim, sizes.edges, mul) for mul, ir in irreps]
        flat = to_irreps(parts).to(device).requires_grad_()
        leaves = [part.to(device).requires_grad_() for part in parts]
        return cls(sizes, block.to(device), plain.to(device), leaves, flat)

    def in_plain_form(self) -> None:
        self.plain(self.flat, differentiable=False)

    def by_autograd(self, *, differentiable: bool = False) -> tuple[torch.Tensor, ComponentFirstFeature]:
        """z and v by automatic differentiation, from the same invariants as in the closed form."""
        z = self.block.encode(self.parts)
        return z, list(torch.autograd.grad(z.sum(), self.parts, create_graph=differentiable))

    def in_closed_form(self) -> None:
        with torch.inference_mode():
            self.block(self.parts)

    def backward(self, way: Callable[[], tuple[torch.Tensor, ComponentFirstFeature]]) -> None:
        """Backward pass through z and v to weights and feature."""
        for parameter in (*self.block.parameters(), *self.plain.parameters(), *self.parts, self.flat):
            parameter.grad = None
        z, v = way()
        torch.autograd.backward([z.sum(), *(part.square().sum() for part in v)])

    def plain_pair(self) -> tuple[torch.Tensor, ComponentFirstFeature]:
        z, v = self.plain(self.flat, differentiable=True)
        return z, [v]

    def difference(self) -> float:
        """Largest difference between v of the plain and the closed form, relative to the largest v."""
        expected = self.plain(self.flat, differentiable=False)[1].detach()
        with torch.inference_mode():
            actual = to_irreps(self.block(self.parts)[1])
        return float((actual - expected).abs().max() / expected.abs().max())


def block_tasks(sizes: tuple[BlockSizes, ...], repeats: int, device: str) -> tuple[list[Timing], list[str]]:
    """Time the forward pass, and the forward and backward pass, of each block."""
    timings: list[Timing] = []
    notes = []
    for each in sizes:
        case = Case.draw(each, device)
        apart = case.difference()
        notes.append(
            f"{each.name}: v of the plain and of the closed form differ by {apart:.1e} of the largest"
        )
        ways: dict[str, Callable[[], object]] = {
            "plain e3nn, autograd": case.in_plain_form,
            "autograd": case.by_autograd,
            "closed form": case.in_closed_form,
        }
        timings += compare(f"z and v of {each.edges} edges, {each.name}", ways, repeats, device)
        differentiable = partial(case.by_autograd, differentiable=True)
        ways = {
            "plain e3nn, autograd": partial(case.backward, case.plain_pair),
            "autograd": partial(case.backward, differentiable),
            "closed form": partial(case.backward, partial(case.block, case.parts)),
        }
        timings += compare(f"with backward, {each.edges} edges, {each.name}", ways, repeats, device)
    return timings, notes
