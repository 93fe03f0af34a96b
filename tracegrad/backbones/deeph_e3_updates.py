"""DeepH-E3's updates of nodes and edges, and what they need to know of a batch of graphs."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeVar

import torch
from e3nn.o3 import Irreps
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tracegrad.backbones.deeph_e3_convolution import Convolution, Edges, Feature
from tracegrad.nn.item_first.edge_frame import EdgeFrame
from tracegrad.nn.item_first.graph_norm import GraphNorm
from tracegrad.nn.item_first.irreps_linear import IrrepsLinear, KindLinear, Kinds

R = TypeVar("R")


@dataclass
class Surroundings:
    """What all layers need to know of a batch of graphs."""

    chunks: list[Edges]
    frame: EdgeFrame
    node_kinds: Kinds
    node_batch: Int[Tensor, " atoms"]
    edge_batch: Int[Tensor, " edges"]
    node_counts: Float[Tensor, " graphs"]
    edge_counts: Float[Tensor, " graphs"]
    recompute: bool

    def run(self, function: Callable[..., R], *arguments: Any) -> R:
        """Call a function; ``recompute`` calls it again for the gradient instead of storing what that needs."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(function, *arguments, use_reentrant=False)
        return function(*arguments)


class Update(nn.Module):
    """What the updates of nodes and edges share: own contribution, norm and residual connection.

    Irreps that only the new feature has get neither own contribution nor residual.
    """

    def __init__(self, old: Irreps, new: Irreps, kinds: int):
        super().__init__()
        had = {ir for _, ir in old}
        kept = Irreps([(mul, ir) for mul, ir in new if ir in had])
        self.pre = IrrepsLinear(old, old, bias=True)
        self.post = IrrepsLinear(new, new, bias=True)
        self.own = KindLinear(old, kept, kinds)
        self.norm = GraphNorm(new)
        self.skip = IrrepsLinear(old, kept, bias=False) if old != new else None
        self.kept = [ir in had for _, ir in new]

    def mixed(self, made: Feature, old: Feature, kinds: Kinds) -> Feature:
        """What the convolution made, and the own contribution of the old feature."""
        return [
            x if own is None else x + own
            for x, own in zip(self.post(made), self._spread(self.own(old, kinds)), strict=True)
        ]

    def residual(self, old: Feature) -> list[Float[Tensor, "n _m _c"] | None]:
        """The old feature in the new irreps, None where it has none."""
        return self._spread(old if self.skip is None else self.skip(old))

    def _spread(self, kept: Feature) -> list[Float[Tensor, "n _m _c"] | None]:
        parts = iter(kept)
        return [next(parts) if found else None for found in self.kept]


class NodeUpdate(Update):
    """Messages from all edges of a node, summed."""

    def __init__(
        self, node: Irreps, edge: Irreps, new: Irreps, kinds: int, lmax: int, radial: int, *, legacy: bool
    ):
        super().__init__(node, new, kinds)
        self.irreps = new
        self.convolution = Convolution(node, edge, new, lmax, radial, legacy=legacy)

    def forward(self, node: Feature, edge: Feature, at: Surroundings) -> Feature:
        sender = self.pre(node)
        parts = (at.run(self._messages, sender, part(edge, chunk.at), chunk) for chunk in at.chunks)
        summed = reduce(add, parts)
        mixed = self.mixed(summed, node, at.node_kinds)
        return self.norm(mixed, at.node_batch, at.node_counts, plus=self.residual(node))

    def _messages(self, node: Feature, edge: Feature, chunk: Edges) -> Feature:
        return self.convolution(node, edge, chunk, at_nodes=True)


class EdgeUpdate(Update):
    """Each edge from itself and its two nodes."""

    def __init__(
        self, node: Irreps, edge: Irreps, new: Irreps, kinds: int, lmax: int, radial: int, *, legacy: bool
    ):
        super().__init__(edge, new, kinds)
        self.convolution = Convolution(node, edge, new, lmax, radial, legacy=legacy)

    def forward(self, node: Feature, edge: Feature, at: Surroundings) -> Feature:
        parts = [at.run(self._mixed, node, part(edge, chunk.at), chunk) for chunk in at.chunks]
        return self.norm(joined(parts), at.edge_batch, at.edge_counts, at.frame, self.residual(edge))

    def _mixed(self, node: Feature, edge: Feature, chunk: Edges) -> Feature:
        made = self.convolution(node, self.pre(edge), chunk, at_nodes=False)
        return self.mixed(made, edge, chunk.kinds)


def add(a: Feature, b: Feature) -> Feature:
    """Sum, irrep by irrep."""
    return [x + y for x, y in zip(a, b, strict=True)]


def part(feature: Feature, items: slice) -> Feature:
    """Some items of a feature."""
    return [x[items] for x in feature]


def joined(parts: list[Feature]) -> Feature:
    """The items of all parts, one part after another."""
    return parts[0] if len(parts) == 1 else [torch.cat(pieces) for pieces in zip(*parts, strict=True)]
