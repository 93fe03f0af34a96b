"""What the DeepH-2-style network computes of pairs of atoms.

These are radial numbers, and maps of the features of both atoms and their edge.

Features are item-first with one irrep for each degree, ``x[degree][item, m, channel]``: those of nodes in the global
frame, those of edges in the frame of their edge. Edges of an atom to itself have no frame; what is computed here of
them is finite and not used.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tracegrad.nn.edge_parts import run_layer
from tracegrad.nn.interface import ItemFirstFeature
from tracegrad.nn.item_first.feed_forward import Activation
from tracegrad.nn.item_first.so2_linear import SO2Linear, so2_slots
from tracegrad.ops.edge_rows.from_rows import from_rows
from tracegrad.ops.edge_rows.layout import RowFeature, RowLayout
from tracegrad.ops.edge_rows.to_rows import to_rows

R = TypeVar("R")
SPECIES_RANGE = 1e-3


@dataclass(frozen=True)
class Sizes:
    """Sizes of the layers.

    Args:
        channels: of nodes and edges, of each degree 0 .. L.
        hidden: channels of each degree between the two maps of a message or an update of edges.
        forward: channels of each degree inside the feed-forward parts.
        value: channels of each degree and head of the values of the attention.
        heads: of the attention.
        logits: numbers of each head from which its logit is computed.
        mmax: M, highest |m| of the maps of pairs.
        radial: number of radial functions.
        species: number of kinds of atoms, see `AtomKinds`.
        embed: width of the radial networks and of the embeddings of elements in them.
        activation: makes the activation of some channels of each degree.
    """

    channels: Sequence[int]
    hidden: Sequence[int]
    forward: Sequence[int]
    value: Sequence[int]
    heads: int
    logits: int
    mmax: int
    radial: int
    species: int
    embed: int
    activation: Callable[[Sequence[int]], Activation]


@dataclass
class PairChunk:
    """Consecutive edges of a batch of graphs, with what the layers need of them.

    Args:
        at: which edges of the batch these are.
        on_site: whether an edge joins an atom to itself at length zero.
        rotations: for each degree l = 1 .. L the matrices from the frames of the edges to the global frame.
        endpoints: nodes i, which receive messages, and nodes j.
        kinds: elements of both endpoints.
        radial: radial functions of the edge lengths.
        recompute: see `run`.
    """

    at: slice
    on_site: Bool[Tensor, " edges"]
    rotations: list[Float[Tensor, "edges _m _m"]]
    endpoints: tuple[Int[Tensor, " edges"], Int[Tensor, " edges"]]
    kinds: tuple[Int[Tensor, " edges"], Int[Tensor, " edges"]]
    radial: Float[Tensor, "edges k"]
    recompute: bool

    def run(self, function: Callable[..., R], *arguments: Any) -> R:
        """Call a function with this chunk as its last argument, see `run_layer`."""
        return run_layer(function, *arguments, self, recompute=self.recompute)


class PairRadial(nn.Module):
    """A network of [radial functions of d | element of j | element of i] (stated for EquiformerV2).

    Twice Linear, LayerNorm and SiLU, and a last Linear for each of several outputs.

    Args:
        sizes: of the network.
        outputs: numbers of each output.
    """

    def __init__(self, sizes: Sizes, outputs: Sequence[int]):
        super().__init__()
        self.receiving, self.sending = (nn.Embedding(sizes.species, sizes.embed) for _ in range(2))
        for embedding in (self.receiving, self.sending):
            nn.init.uniform_(embedding.weight, -SPECIES_RANGE, SPECIES_RANGE)
        width = sizes.embed
        self.trunk = nn.Sequential(
            *(nn.Linear(sizes.radial + 2 * width, width), nn.LayerNorm(width), nn.SiLU()),
            *(nn.Linear(width, width), nn.LayerNorm(width), nn.SiLU()),
        )
        self.outputs = nn.ModuleList([nn.Linear(width, count) for count in outputs])
        for layer in (self.trunk[0], self.trunk[3], *self.outputs):
            nn.init.zeros_(layer.bias)

    def forward(self, chunk: PairChunk, count: int | None = None) -> list[Float[Tensor, "edges _n"]]:
        """The first ``count`` outputs (None: all)."""
        i, j = chunk.kinds
        inputs = torch.cat([chunk.radial, self.sending(j), self.receiving(i)], dim=1)
        hidden = self.trunk(inputs)
        return [output(hidden) for output in self.outputs[:count]]


class PairRows(nn.Module):
    """[x_i | x_j | f_ij] in the frame of the edge, each (|m|, l, channel) times a radial number of its own.

    The components of one |m| of all degrees stand side by side, see `SO2Linear`.
    """

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.widths = [3 * count for count in sizes.channels]
        self._all, self._middle = (self._layout(sizes.channels, m) for m in (sizes.mmax, 0))
        _, shapes = so2_slots(self.widths, sizes.mmax)
        self.radial = PairRadial(sizes, [columns for _, columns in shapes])

    def forward(
        self, node: ItemFirstFeature, edge: ItemFirstFeature, chunk: PairChunk
    ) -> list[Float[Tensor, "edges _p _c"]]:
        """The rows of |m| = 0 .. M."""
        return self._scaled(self._all, node, edge, chunk, self.radial(chunk))

    def middle(
        self, node: ItemFirstFeature, edge: ItemFirstFeature, chunk: PairChunk
    ) -> Float[Tensor, "edges c"]:
        """Only the row of m = 0."""
        (row,) = self._scaled(self._middle, node, edge, chunk, self.radial(chunk, 1))
        return row[:, 0]

    def _scaled(
        self,
        layout: RowLayout,
        node: ItemFirstFeature,
        edge: ItemFirstFeature,
        chunk: PairChunk,
        factors: list[Float[Tensor, "edges _c"]],
    ) -> list[Float[Tensor, "edges _p _c"]]:
        features = [x for pair in zip(node, edge, strict=True) for x in pair]
        rows = to_rows(layout.key, features, chunk.rotations, chunk.endpoints, len(chunk.radial))
        return [row * factor[:, None] for row, factor in zip(rows, factors, strict=True)]

    def _layout(self, channels: Sequence[int], mmax: int) -> RowLayout:
        slots, shapes = so2_slots(self.widths, mmax)
        features = []
        for degree, (count, own) in enumerate(zip(channels, slots, strict=True)):
            rotation = degree - 1 if degree else None
            features.append(RowFeature(own, count, rotation, (0, 1)))
            after = tuple(slot and (slot[0], slot[1] + 2 * count) for slot in own)
            features.append(RowFeature(after, count))
        return RowLayout(tuple(shapes), tuple(features))


class PairMap(nn.Module):
    """SO(2) linear map of [x_i | x_j | f_ij] to hidden channels, and an activation."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.rows = PairRows(sizes)
        self.activation = sizes.activation(sizes.hidden)
        self.linear = SO2Linear(self.rows.widths, sizes.hidden, sizes.mmax, self.activation.scalars)
        self._features = edge_layout(sizes.hidden, sizes.mmax)

    def forward(self, node: ItemFirstFeature, edge: ItemFirstFeature, chunk: PairChunk) -> ItemFirstFeature:
        """The hidden features of each edge, in its frame."""
        rows, scalars = self.linear(self.rows(node, edge, chunk))
        return self.activation(from_rows(self._features.key, rows), scalars)


def edge_layout(channels: Sequence[int], mmax: int) -> RowLayout:
    """Rows |m| = 0 .. ``mmax`` of features of edges in their frames."""
    slots, shapes = so2_slots(channels, mmax)
    return RowLayout(tuple(shapes), tuple(map(RowFeature, slots, channels)))


def node_layout(channels: Sequence[int], mmax: int) -> RowLayout:
    """Rows |m| = 0 .. ``mmax`` whose features are turned to the global frame and summed at a node."""
    slots, shapes = so2_slots(channels, mmax)
    features = [
        RowFeature(own, count, degree - 1 if degree else None, (0,))
        for degree, (own, count) in enumerate(zip(slots, channels, strict=True))
    ]
    return RowLayout(tuple(shapes), tuple(features))


def where_on_site(chunk: PairChunk, on_site: ItemFirstFeature, others: ItemFirstFeature) -> ItemFirstFeature:
    """The first feature for edges of an atom to itself, the second for all others."""
    mask = chunk.on_site[:, None, None]
    return [torch.where(mask, a, b) for a, b in zip(on_site, others, strict=True)]


def at_receiving(node: ItemFirstFeature, chunk: PairChunk) -> ItemFirstFeature:
    """The features of the node i of each edge, in the global frame."""
    return [x.index_select(0, chunk.endpoints[0]) for x in node]
