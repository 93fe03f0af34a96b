"""The updates of node and edge features in DeepH-E3.

Features are item-first, ``x[irrep][item, m, channel]``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeVar

import torch
from e3nn.o3 import Irreps
from jaxtyping import Float, Int
from torch import Tensor, nn

from tracegrad.backbones.deeph_e3_convolution import EdgeChunk, EquiConv
from tracegrad.nn.edge_parts import run_layer
from tracegrad.nn.interface import ItemFirstFeature
from tracegrad.nn.item_first.edge_frame import EdgeFrame
from tracegrad.nn.item_first.graph_norm import GraphNorm
from tracegrad.nn.item_first.irreps_linear import IrrepsLinear, KindLinear

R = TypeVar("R")


@dataclass
class BatchContext:
    """What all layers need of a batch of graphs.

    Args:
        chunks: all edges, some at a time.
        frame: frames of all edges.
        node_kind: element of each node.
        node_batch, edge_batch: graph of each node and edge.
        node_counts, edge_counts: numbers of nodes and edges of each graph.
        recompute: see `run`.
    """

    chunks: list[EdgeChunk]
    frame: EdgeFrame
    node_kind: Int[Tensor, " atoms"]
    node_batch: Int[Tensor, " atoms"]
    edge_batch: Int[Tensor, " edges"]
    node_counts: Float[Tensor, " graphs"]
    edge_counts: Float[Tensor, " graphs"]
    recompute: bool

    def run(self, function: Callable[..., R], *arguments: Any) -> R:
        """Call a function, see `run_layer`."""
        return run_layer(function, *arguments, recompute=self.recompute)


class Update(nn.Module):
    """Shared part of the updates of nodes and edges.

    new = norm(post(convolution) + own(old)) + skip(old), where ``own`` is a linear map for each kind of item and
    ``skip`` the residual connection. Irreps that the old feature lacks get neither of the two.
    """

    def __init__(self, old: Irreps, new: Irreps, kinds: int):
        super().__init__()
        old_irreps = {ir for _, ir in old}
        kept = Irreps([(mul, ir) for mul, ir in new if ir in old_irreps])
        self.pre = IrrepsLinear(old, old, bias=True)
        self.post = IrrepsLinear(new, new, bias=True)
        self.own = KindLinear(old, kept, kinds)
        self.norm = GraphNorm(new)
        self.skip = IrrepsLinear(old, kept, bias=False) if old != new else None
        self.kept = [ir in old_irreps for _, ir in new]

    def mixed(
        self, convolved: ItemFirstFeature, old: ItemFirstFeature, kind: Int[Tensor, " n"]
    ) -> ItemFirstFeature:
        """post(convolved) + own(old)."""
        return self.post(convolved, self._in_new_irreps(self.own(old, kind)))

    def residual(self, old: ItemFirstFeature) -> list[Float[Tensor, "n _m _c"] | None]:
        """The old feature in the new irreps, None for irreps that it lacks."""
        return self._in_new_irreps(old if self.skip is None else self.skip(old))

    def _in_new_irreps(self, kept: ItemFirstFeature) -> list[Float[Tensor, "n _m _c"] | None]:
        parts = iter(kept)
        return [next(parts) if is_kept else None for is_kept in self.kept]


class NodeUpdate(Update):
    """Update of the nodes by the sum of the messages of all their edges."""

    def __init__(
        self, node: Irreps, edge: Irreps, new: Irreps, kinds: int, lmax: int, radial: int, *, legacy: bool
    ):
        super().__init__(node, new, kinds)
        self.irreps = new
        self.convolution = EquiConv(node, edge, new, lmax, radial, legacy=legacy, at_nodes=True)

    def forward(
        self, node: ItemFirstFeature, edge: ItemFirstFeature, batch: BatchContext
    ) -> ItemFirstFeature:
        inputs = self.pre(node)
        messages = (batch.run(self._messages, inputs, part(edge, chunk.at), chunk) for chunk in batch.chunks)
        mixed = self.mixed(reduce(add, messages), node, batch.node_kind)
        return self.norm(mixed, batch.node_batch, batch.node_counts, plus=self.residual(node))

    def _messages(self, node: ItemFirstFeature, edge: ItemFirstFeature, chunk: EdgeChunk) -> ItemFirstFeature:
        return self.convolution(node, edge, chunk)


class EdgeUpdate(Update):
    """Update of each edge by itself and its two nodes."""

    def __init__(
        self, node: Irreps, edge: Irreps, new: Irreps, kinds: int, lmax: int, radial: int, *, legacy: bool
    ):
        super().__init__(edge, new, kinds)
        self.convolution = EquiConv(node, edge, new, lmax, radial, legacy=legacy, at_nodes=False)

    def forward(
        self, node: ItemFirstFeature, edge: ItemFirstFeature, batch: BatchContext
    ) -> ItemFirstFeature:
        parts = [batch.run(self._mixed, node, part(edge, chunk.at), chunk) for chunk in batch.chunks]
        residual = self.residual(edge)
        return self.norm(joined(parts), batch.edge_batch, batch.edge_counts, batch.frame, residual)

    def _mixed(self, node: ItemFirstFeature, edge: ItemFirstFeature, chunk: EdgeChunk) -> ItemFirstFeature:
        convolved = self.convolution(node, self.pre(edge), chunk)
        return self.mixed(convolved, edge, chunk.kind)


def add(a: ItemFirstFeature, b: ItemFirstFeature) -> ItemFirstFeature:
    """Sum of two features."""
    return [x + y for x, y in zip(a, b, strict=True)]


def part(feature: ItemFirstFeature, items: slice) -> ItemFirstFeature:
    """The feature of some of the items."""
    return [x[items] for x in feature]


def joined(parts: list[ItemFirstFeature]) -> ItemFirstFeature:
    """Concatenation of features along their items."""
    return parts[0] if len(parts) == 1 else [torch.cat(pieces) for pieces in zip(*parts, strict=True)]
