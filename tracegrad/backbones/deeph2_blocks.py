"""The layers of the DeepH-2-style network: attention of the nodes, update of the edges, and the start of both.

Features are item-first with one irrep for each degree: those of nodes in the global frame, those of edges in the
frame of their edge. An edge of an atom to itself has no direction and therefore no frame: it takes no part in the
attention, and its own update uses linear maps of whole irreps only (our choice), which keep all rotations.
"""

import math
from dataclasses import replace
from functools import reduce

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tracegrad.backbones.deeph2_pairs import (
    PairChunk,
    PairMap,
    PairRadial,
    Sizes,
    at_receiving,
    edge_layout,
    node_layout,
    where_on_site,
)
from tracegrad.backbones.deeph_e3_updates import add, part
from tracegrad.nn.interface import ItemFirstFeature
from tracegrad.nn.item_first.degree_norm import DegreeNorm
from tracegrad.nn.item_first.edge_softmax import edge_softmax
from tracegrad.nn.item_first.feed_forward import FeedForward
from tracegrad.nn.item_first.so2_linear import SO2Linear, so2_slots
from tracegrad.nn.item_first.so3_linear import so3_linear
from tracegrad.ops.edge_rows.from_rows import from_rows
from tracegrad.ops.edge_rows.to_rows import to_rows

SLOPE = 0.2  # of the smooth leaky ReLU


class Start(nn.Module):
    """The first features of nodes and edges (after EquiformerV2; edges and on-site edges: our choice).

    A node has the embedding of its element in l = 0, and for each of its edges radial numbers at m = 0 of every l in
    the frame of the edge, turned to the global frame, summed, and divided by a typical number of neighbours. An edge
    has radial numbers of its own at m = 0 of every l, an on-site edge a linear map of its node.

    Args:
        sizes: of the network.
        neighbours: the typical number of neighbours.
    """

    def __init__(self, sizes: Sizes, neighbours: float):
        super().__init__()
        self.channels, self.neighbours = list(sizes.channels), neighbours
        self.species = nn.Embedding(sizes.species, sizes.channels[0])
        self.of_nodes, self.of_edges = (PairRadial(sizes, [sum(sizes.channels)]) for _ in range(2))
        self.on_site = so3_linear(sizes.channels, sizes.channels)
        self._nodes = node_layout(sizes.channels, 0)
        self._edges = edge_layout(sizes.channels, 0)

    def nodes(self, kind: Int[Tensor, " atoms"], chunks: list[PairChunk]) -> ItemFirstFeature:
        """Features of all nodes, of the elements ``kind``."""
        sums = (chunk.run(self._node_sums, len(kind)) for chunk in chunks)
        scalars, *others = [x / self.neighbours for x in reduce(add, sums)]
        return [scalars + self.species(kind)[:, None], *others]

    def edges(self, node: ItemFirstFeature, chunk: PairChunk) -> ItemFirstFeature:
        """Features of the edges of a chunk."""
        (numbers,) = self.of_edges(chunk)
        start = from_rows(self._edges.key, [numbers[:, None]])
        return where_on_site(chunk, self.on_site(at_receiving(node, chunk)), start)

    def _node_sums(self, nodes: int, chunk: PairChunk) -> ItemFirstFeature:
        (numbers,) = self.of_nodes(chunk)
        rows = [numbers[:, None].masked_fill(chunk.on_site[:, None, None], 0)]
        return from_rows(self._nodes.key, rows, None, chunk.rotations, chunk.endpoints[0], nodes)


class EdgeAttention(nn.Module):
    """Multi-head attention of each node i on its edges, with messages of [x_i | x_j | f_ij] (after EquiformerV2).

    Softmax needs the logits of all edges of an atom: they are computed first, for one chunk of edges after another,
    and then the weighted values. The logits need only the components m = 0.
    """

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.norm, self.edge_norm = DegreeNorm(sizes.channels), DegreeNorm(sizes.channels)
        self.pair = PairMap(sizes)
        self.logit_numbers = nn.Linear(sum(self.pair.rows.widths), sizes.heads * sizes.logits)
        nn.init.zeros_(self.logit_numbers.bias)
        self.logit_norm = nn.LayerNorm(sizes.logits)
        bound = 1 / math.sqrt(sizes.logits)
        self.logit_vectors = nn.Parameter(torch.empty(sizes.heads, sizes.logits).uniform_(-bound, bound))
        values = [sizes.heads * count for count in sizes.value]
        self.values = SO2Linear(sizes.hidden, values, sizes.mmax)
        self.last = so3_linear(values, sizes.channels)
        # Components |m| > M are missing in the frames; the others make up for them (stated for EquiformerV2).
        components = [(2 * degree + 1, 2 * min(degree, sizes.mmax) + 1) for degree in range(len(values))]
        self.factors = [math.sqrt(whole / present) for whole, present in components]
        self._hidden = edge_layout(sizes.hidden, sizes.mmax)
        self._sums = node_layout(values, sizes.mmax)
        heads = [head for count in sizes.value for head in range(sizes.heads) for _ in range(count)]
        self.register_buffer("head_of_column", torch.tensor(heads), persistent=False)
        self.head_of_column: Tensor
        _, shapes = so2_slots(values, sizes.mmax)
        # A row of |m| has the last columns of the row of m = 0: those of the degrees l >= |m|.
        self._first_columns = [len(heads) - columns for _, columns in shapes]

    def forward(
        self, node: ItemFirstFeature, edge: ItemFirstFeature, chunks: list[PairChunk]
    ) -> ItemFirstFeature:
        """The new features of all nodes; ``edge`` holds the features of all edges."""
        normed = self.norm(node)
        logits = torch.cat([chunk.run(self._logits, normed, part(edge, chunk.at)) for chunk in chunks])
        receiving, on_site = (
            torch.cat(parts)
            for parts in zip(*((chunk.endpoints[0], chunk.on_site) for chunk in chunks), strict=True)
        )
        weights = edge_softmax(logits, receiving, len(node[0]), ~on_site)
        messages = (
            chunk.run(self._messages, normed, part(edge, chunk.at), weights[chunk.at]) for chunk in chunks
        )
        sums = reduce(add, messages)
        scaled = [x * factor for x, factor in zip(sums, self.factors, strict=True)]
        return self.last(scaled, node)

    def _logits(
        self, node: ItemFirstFeature, edge: ItemFirstFeature, chunk: PairChunk
    ) -> Float[Tensor, "edges heads"]:
        numbers = self.logit_numbers(self.pair.rows.middle(node, self.edge_norm(edge), chunk))
        x = self.logit_norm(numbers.unflatten(1, self.logit_vectors.shape))
        leaky = (1 + SLOPE) / 2 * x + (1 - SLOPE) / 2 * x * (2 * torch.sigmoid(x) - 1)
        return (leaky * self.logit_vectors).sum(2)

    def _messages(
        self,
        node: ItemFirstFeature,
        edge: ItemFirstFeature,
        weights: Float[Tensor, "edges heads"],
        chunk: PairChunk,
    ) -> ItemFirstFeature:
        hidden = self.pair(node, self.edge_norm(edge), chunk)
        rows, _ = self.values(to_rows(self._hidden.key, hidden, [], [], len(weights)))
        of_columns = weights.index_select(1, self.head_of_column)[:, None]
        weighted = [row * of_columns[:, :, k:] for row, k in zip(rows, self._first_columns, strict=True)]
        return from_rows(self._sums.key, weighted, None, chunk.rotations, chunk.endpoints[0], len(node[0]))


class NodeUpdate(nn.Module):
    """Attention and feed-forward part of the nodes, each with a residual connection."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.attention = EdgeAttention(sizes)
        self.norm = DegreeNorm(sizes.channels)
        self.feed_forward = FeedForward(sizes.channels, sizes.forward, sizes.activation)

    def forward(
        self, node: ItemFirstFeature, edge: ItemFirstFeature, chunks: list[PairChunk]
    ) -> ItemFirstFeature:
        node = self.attention(node, edge, chunks)
        return self.feed_forward(self.norm(node), node)


class EdgeUpdate(nn.Module):
    """Update of each edge by itself and its two nodes, and feed-forward part, each with a residual connection.

    An on-site edge is updated by a linear map of [x_i | f_ii] with weights of its own; the feed-forward part is
    shared.

    Args:
        sizes: of the network.
        degrees: number of degrees of the new features. The last block has only those of H: weights of others would
            have no gradient.
    """

    def __init__(self, sizes: Sizes, degrees: int):
        super().__init__()
        self.degrees = degrees
        channels, hidden = sizes.channels[:degrees], sizes.hidden[:degrees]
        self.edge_norm, self.norm = DegreeNorm(sizes.channels), DegreeNorm(channels)
        self.pair = PairMap(replace(sizes, hidden=hidden, mmax=min(sizes.mmax, degrees - 1)))
        self.last = so3_linear(hidden, channels)
        self.on_site = so3_linear([2 * count for count in channels], channels)
        self.feed_forward = FeedForward(channels, sizes.forward[:degrees], sizes.activation)

    def forward(self, node: ItemFirstFeature, edge: ItemFirstFeature, chunk: PairChunk) -> ItemFirstFeature:
        """The new features of the edges of a chunk."""
        normed, kept = self.edge_norm(edge), edge[: self.degrees]
        pairs = zip(at_receiving(node[: self.degrees], chunk), normed[: self.degrees], strict=True)
        on_site = self.on_site([torch.cat(pair, dim=2) for pair in pairs], kept)
        edge = where_on_site(chunk, on_site, self.last(self.pair(node, normed, chunk), kept))
        return self.feed_forward(self.norm(edge), edge)
