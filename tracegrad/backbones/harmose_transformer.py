"""The non-linear graph Transformer that is the second stage of HarmoSE.

Its maps are ordinary linear ones on the components of features in the global frame, so that it is not equivariant by
construction. Its structure is that of a network that the authors released later (a hint only: the method section of
the paper was not available); LayerNorms whose epsilon is not known there have torch's (our choice).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tracegrad.nn.edge_parts import run_layer

LARGEST_LOGIT = 5.0
ATOM_EPS = 1e-6  # of the LayerNorm after the attention


@dataclass
class EdgeInputs:
    """What all layers need of the edges.

    Args:
        ends: atoms i, at which messages are summed, and atoms j.
        on_site: which edges join an atom to itself in the same cell.
        harmonics: spherical harmonics of the directions.
        radial: radial functions of the lengths.
        atoms: number of atoms.
        parts: the edges that are processed at a time.
        recompute: in training, recompute intermediate results in the backward pass instead of storing them.
    """

    ends: Int[Tensor, "2 edges"]
    on_site: Bool[Tensor, " edges"]
    harmonics: Float[Tensor, "edges s"]
    radial: Float[Tensor, "edges b"]
    atoms: int
    parts: list[slice]
    recompute: bool

    def of_parts(self, function: Callable[..., Any], *of_edges: Tensor) -> list[Any]:
        """Results of a function for each part of the edges; the arguments are cut."""
        return [
            run_layer(function, *(x[at] for x in of_edges), recompute=self.recompute) for at in self.parts
        ]


class GraphTransformer(nn.Module):
    """Layers of `TransformerLayer`; the last one returns the result, which is zero at first.

    Args:
        inputs: width of the edge input.
        harmonics, radial: numbers of harmonics and radial functions.
        width: of hidden features.
        outputs: width of the result.
        layers, heads: their numbers.
    """

    def __init__(
        self, inputs: int, harmonics: int, radial: int, width: int, outputs: int, layers: int, heads: int
    ):
        super().__init__()
        self.width = width
        widths = [inputs, *[width] * (layers - 1), outputs]
        self.layers = nn.ModuleList(
            TransformerLayer(before, harmonics, radial, width, after, heads)
            for before, after in pairwise(widths)
        )
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    @property
    def last(self) -> nn.Linear:
        """The map that returns the result."""
        layer = self.layers[-1]
        assert isinstance(layer, TransformerLayer)
        return layer.edge_out

    def forward(self, edge: Float[Tensor, "edges c"], inputs: EdgeInputs) -> Float[Tensor, "edges d"]:
        """The result of each edge. Atoms start from the merged input of their on-site edge, without one from zero."""
        atom = None
        for layer in self.layers:
            atom, edge = layer(atom, edge, inputs)
        return edge


class TransformerLayer(nn.Module):
    """Merges what is known of an edge, and updates the atoms by attention over their edges and then the edges.

    Args:
        before, after: width of edge features before and after the layer.
        harmonics, radial: numbers of harmonics and radial functions.
        width: of hidden features.
        heads: of the attention.
    """

    def __init__(self, before: int, harmonics: int, radial: int, width: int, after: int, heads: int):
        super().__init__()
        self.inputs = nn.ModuleList(normed(count, width) for count in (before, harmonics, radial))
        self.merge = normed(3 * width, width)
        self.attention = EdgeAttention(width, heads)
        self.atom_in = nn.Linear(width, width)
        self.atom_out = nn.Sequential(nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, width))
        self.edge_in, self.edge_out = normed(3 * width, after), nn.Linear(after, after)

    def forward(
        self, atom: Float[Tensor, "atoms h"] | None, edge: Float[Tensor, "edges c"], inputs: EdgeInputs
    ) -> tuple[Float[Tensor, "atoms h"], Float[Tensor, "edges d"]]:
        merged = torch.cat(inputs.of_parts(self._merged, edge, inputs.harmonics, inputs.radial))
        if atom is None:
            own = torch.where(inputs.on_site[:, None], merged, 0.0)
            atom = at_atoms(own, inputs.ends[0], inputs.atoms)
        atom = self.attention(atom, merged, inputs)
        atom = self.atom_out(atom + self.atom_in(atom)).to(merged.dtype)
        dst, src = inputs.ends

        def updated(merged: Tensor, dst: Tensor, src: Tensor) -> Tensor:
            return self.edge_out(self.edge_in(triple(atom, merged, dst, src)))

        return atom, torch.cat(inputs.of_parts(updated, merged, dst, src))

    def _merged(self, *of_edge: Float[Tensor, "edges _"]) -> Float[Tensor, "edges h"]:
        return self.merge(torch.cat([f(x) for f, x in zip(self.inputs, of_edge, strict=True)], dim=1))


class EdgeAttention(nn.Module):
    """Weighted mean over the edges of each atom, added to the atom.

    With s = [atom j | edge | atom i], each head has q = Wq s and k = Wk s of the full width h, v = Wv s of width
    h / heads, weights proportional to exp(clip(q . k / sqrt(3h), -5, 5)), and

        new = LN(old + Wo [head_1 | .. | head_n])

    Query and key belong to the same edge: the weights gate the neighbours and do not compare edges. As exponents are
    bounded, sums of any parts of the edges can be added, and no largest logit is needed.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key = (nn.Linear(3 * width, heads * width) for _ in range(2))
        self.value = nn.Linear(3 * width, width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=ATOM_EPS)

    def forward(
        self, atom: Float[Tensor, "atoms h"], merged: Float[Tensor, "edges h"], inputs: EdgeInputs
    ) -> Float[Tensor, "atoms h"]:
        dst, src = inputs.ends

        def summed(merged: Tensor, dst: Tensor, src: Tensor) -> tuple[Tensor, Tensor]:
            weights, values = self.weighted(triple(atom, merged, dst, src))
            return (
                at_atoms(weights[:, :, None] * values, dst, inputs.atoms),
                at_atoms(weights, dst, inputs.atoms),
            )

        products, weights = zip(*inputs.of_parts(summed, merged, dst, src), strict=True)
        # Of an atom with an edge the sum is at least exp(-5); one without gets nothing.
        means = sum(products) / sum(weights).clamp_min(math.exp(-2 * LARGEST_LOGIT))[:, :, None]
        return self.norm(atom + self.out(means.flatten(1)).to(atom.dtype))

    def weighted(
        self, s: Float[Tensor, "edges w"]
    ) -> tuple[Float[Tensor, "edges heads"], Float[Tensor, "edges heads v"]]:
        """exp(logit) and the value of each head."""
        query, key, value = (f(s).unflatten(1, (self.heads, -1)) for f in (self.query, self.key, self.value))
        logit = (query * key).sum(2).to(s.dtype) / math.sqrt(s.shape[1])
        return torch.exp(logit.clamp(-LARGEST_LOGIT, LARGEST_LOGIT)), value.to(s.dtype)


def at_atoms(
    of_edges: Float[Tensor, "edges *c"], dst: Int[Tensor, " edges"], atoms: int
) -> Float[Tensor, "atoms *c"]:
    """Sum over the edges of each atom."""
    return of_edges.new_zeros(atoms, *of_edges.shape[1:]).index_add(0, dst, of_edges)


def triple(
    atom: Float[Tensor, "atoms h"],
    merged: Float[Tensor, "edges h"],
    dst: Int[Tensor, " edges"],
    src: Int[Tensor, " edges"],
) -> Float[Tensor, "edges w"]:
    """[atom j | edge | atom i] of each edge."""
    return torch.cat([atom.index_select(0, src), merged, atom.index_select(0, dst)], dim=1)


def normed(inputs: int, outputs: int) -> nn.Sequential:
    """SiLU(LayerNorm(linear map))."""
    return nn.Sequential(nn.Linear(inputs, outputs), nn.LayerNorm(outputs), nn.SiLU())
