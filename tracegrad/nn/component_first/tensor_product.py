"""Clebsch-Gordan products of component-first features.

All products compute, channel by channel, out_l3 = sum over paths of w_p C^{l1 l2 l3} (a_l1, b_l2) with the path
normalisation of `path_coefficients`. The forms in this file are those for GPUs, compilers and second derivatives; on
a CPU `tracegrad.nn.component_first.coupling_kernel` gives the same in one pass over memory.

Weights are products of one or two factors (values, rows): item i has row ``rows[i]`` of the values; None means row i.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tracegrad.nn.component_first.coupling_kernel import CouplingPaths, WeightFactor, couple
from tracegrad.nn.component_first.features import (
    degree_sizes,
    path_coefficients,
    paths,
    split_degrees,
    wigner_3j,
)
from tracegrad.numerics.constants import Constant
from tracegrad.numerics.precision import full_precision


class ChannelwiseProduct(nn.Module):
    """a x b with one weight per path and channel ("uuu"); parities are ignored, so all triples couple.

    All paths with the same (l1, l2) share one outer product, and their coefficients form one small matrix, so a
    product takes at most (L+1)^2 matrix products instead of one einsum for each path.

    Args:
        lmax: degree of both inputs and of the output.
    """

    def __init__(self, lmax: int):
        super().__init__()
        self.lmax = lmax
        triples = paths(lmax, lmax, lmax, parity=False)
        self.n_paths = len(triples)
        scaled = tuple(zip(triples, path_coefficients(triples), strict=True))
        self.coupling = CouplingPaths(scaled, (lmax, lmax, lmax), shared=False)
        self.tables: list[Constant] = []  # for each (l1, l2): [m3 of all l3, m1 m2]
        self.targets: list[list[tuple[int, int]]] = []  # for each (l1, l2): (path, l3)
        coupled: dict[tuple[int, int], list[tuple[int, int, Tensor]]] = {}
        for path, ((l1, l2, l3), scale) in enumerate(scaled):
            coupled.setdefault((l1, l2), []).append((path, l3, scale * wigner_3j(l1, l2, l3)))
        for entries in coupled.values():
            self.tables.append(Constant(torch.cat([table.flatten(0, 1).T for *_, table in entries])))
            self.targets.append([(path, l3) for path, l3, _ in entries])

    @full_precision
    def forward(
        self,
        a: Float[Tensor, "m items_a c"],
        b: Float[Tensor, "m items_b c"],
        factors: Sequence[WeightFactor],
        ends: tuple[Int[Tensor, " n"], Int[Tensor, " n"]] | None = None,
    ) -> Float[Tensor, "m n c"]:
        """The product of each item.

        Args:
            a, b: features.
            factors: one or two factors of the weights.
            ends: item of a and item of b for each item of the product; None means item i for item i.
        """
        first, second = ends or (None, None)
        n = a.shape[1] if first is None else len(first)
        rows = [row for _, row in factors]

        def plain(a: Tensor, b: Tensor, *values: Tensor) -> Tensor:
            return self._plain(_selected(a, first, 1), _selected(b, second, 1), _weights(values, rows))

        return couple(self.coupling, a, b, factors, (first, second, None), n, plain)

    def _plain(
        self, a: Float[Tensor, "m n c"], b: Float[Tensor, "m n c"], weights: Float[Tensor, "n paths c"]
    ) -> Float[Tensor, "m n c"]:
        a_parts, b_parts = split_degrees(a, self.lmax), split_degrees(b, self.lmax)
        out: dict[int, Tensor] = {}
        per_path = weights.unbind(1)  # one gradient buffer for all paths, not one for each
        pairs = ((l1, l2) for l1 in range(self.lmax + 1) for l2 in range(self.lmax + 1))
        for (l1, l2), table, targets in zip(pairs, self.tables, self.targets, strict=True):
            outer = (a_parts[l1][:, None] * b_parts[l2][None]).flatten(0, 1).flatten(1)
            coupled = (table(outer) @ outer).unflatten(1, a.shape[1:])
            add_paths(out, coupled, targets, per_path)
        return torch.cat([out[degree] for degree in range(self.lmax + 1)])


class InnerProducts(nn.Module):
    """<a_l, b_l> / (2l + 1) per channel for l = 1 .. L.

    Args:
        lmax: L, degree of both inputs.
    """

    def __init__(self, lmax: int):
        super().__init__()
        self.lmax = lmax
        # C^{d d 0} is the identity divided by sqrt(2 d + 1).
        scaled = tuple(((d, d, 0), (2 * d + 1) ** -0.5) for d in range(1, lmax + 1))
        self.coupling = CouplingPaths(scaled, (lmax, lmax, 0), shared=False, stacked=True)

    @full_precision
    def forward(
        self,
        a: Float[Tensor, "m items_a c"],
        b: Float[Tensor, "m items_b c"],
        ends: tuple[Int[Tensor, " n"], Int[Tensor, " n"]],
    ) -> Float[Tensor, "lmax n c"]:
        """The products of item ``ends[0][i]`` of a and item ``ends[1][i]`` of b, for each i."""
        first, second = ends

        def plain(a: Tensor, b: Tensor, one: Tensor) -> Tensor:
            products = a.index_select(1, first) * b.index_select(1, second)
            parts = split_degrees(products, self.lmax)[1:]
            return torch.stack([part.sum(0) / part.shape[0] for part in parts])

        one = a.new_ones(1, self.lmax, a.shape[2]), torch.zeros_like(first)
        return couple(self.coupling, a, b, [one], (first, second, None), len(first), plain)


class FilterProduct(nn.Module):
    """Messages x_src x Y with one weight per edge, path and channel ("uvu"), summed at the destination of the edges.

    Y has no channels, and parity selects the paths. The coefficients are contracted with Y first, which leaves one
    small matrix for each edge and (l1, l2), shared by all channels.

    Args:
        lmax_in: degree of x (0 for the first convolution).
        lmax: degree of Y and of the output.
    """

    def __init__(self, lmax_in: int, lmax: int):
        super().__init__()
        self.lmax_in, self.lmax = lmax_in, lmax
        triples = paths(lmax_in, lmax, lmax, parity=True)
        self.n_paths = len(triples)
        scaled = tuple(zip(triples, path_coefficients(triples), strict=True))
        self.coupling = CouplingPaths(scaled, (lmax_in, lmax, lmax), shared=True)
        sizes = degree_sizes(lmax)
        self.tables: list[Constant] = []  # for each l1: [m3 of all (l2, l3) * m1, m2 of all l2]
        self.targets: list[list[tuple[int, int]]] = []  # for each l1: (path, l3)
        for l1 in range(lmax_in + 1):
            rows, targets = [], []
            for path, ((first, l2, l3), scale) in enumerate(scaled):
                if first == l1:
                    table = torch.zeros(sizes[l3], sizes[l1], sum(sizes), dtype=torch.float64)
                    table[..., l2**2 : (l2 + 1) ** 2] = scale * wigner_3j(l1, l2, l3).permute(2, 0, 1)
                    rows.append(table)
                    targets.append((path, l3))
            self.tables.append(Constant(torch.cat(rows).flatten(0, 1)))
            self.targets.append(targets)

    @full_precision
    def forward(
        self,
        x: Float[Tensor, "m_in atoms c"],
        y: Float[Tensor, "m edges"],
        factors: Sequence[WeightFactor],
        edge_index: Int[Tensor, "2 edges"],
    ) -> Float[Tensor, "m atoms c"]:
        """For each atom the sum over the edges whose destination it is; edges are (destination, source)."""
        dst, src = edge_index
        atoms = x.shape[1]
        rows = [row for _, row in factors]

        def plain(x: Tensor, y: Tensor, *values: Tensor) -> Tensor:
            messages = self._plain(x.index_select(1, src), y, _weights(values, rows))
            return messages.new_zeros(len(messages), atoms, x.shape[2]).index_add(1, dst, messages)

        return couple(self.coupling, x, y, factors, (src, None, dst), atoms, plain)

    def _plain(
        self, x: Float[Tensor, "m_in n c"], y: Float[Tensor, "m n"], weights: Float[Tensor, "n paths c"]
    ) -> Float[Tensor, "m n c"]:
        out: dict[int, Tensor] = {}
        per_path = weights.unbind(1)
        for part_in, table, targets in zip(
            split_degrees(x, self.lmax_in), self.tables, self.targets, strict=True
        ):
            filters = (table(y) @ y).unflatten(0, (-1, part_in.shape[0]))  # [m3, m1, n]
            by_item = filters.permute(2, 0, 1).contiguous()  # otherwise bmm runs item by item on the CPU
            coupled = (by_item @ part_in.transpose(0, 1)).transpose(0, 1)  # [m3, n, c]
            add_paths(out, coupled, targets, per_path)
        return torch.cat([out[degree] for degree in range(self.lmax + 1)])


def _selected(x: Tensor, index: Int[Tensor, " n"] | None, dim: int) -> Tensor:
    return x if index is None else x.index_select(dim, index)


def _weights(
    values: Sequence[Float[Tensor, "_ paths c"]], rows: Sequence[Int[Tensor, " n"] | None]
) -> Float[Tensor, "n paths c"]:
    first, *rest = (_selected(v, row, 0) for v, row in zip(values, rows, strict=True))
    return first * rest[0] if rest else first


def add_paths(
    out: dict[int, Tensor],
    coupled: Float[Tensor, "m n c"],
    targets: list[tuple[int, int]],
    weights: Sequence[Float[Tensor, "#n c"]],
) -> None:
    """Weight the results of several paths and add each to its degree in ``out``.

    Args:
        out: results so far, by degree.
        coupled: components of all paths, one path after another.
        targets: number and degree l3 of each path.
        weights: of all paths, by number.
    """
    parts = coupled.split([2 * l3 + 1 for _, l3 in targets])
    for (path, l3), part in zip(targets, parts, strict=True):
        weight = weights[path]
        out[l3] = torch.addcmul(out[l3], part, weight) if l3 in out else part * weight
