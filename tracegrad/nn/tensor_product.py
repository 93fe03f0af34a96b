"""Clebsch-Gordan products of component-first features.

Both products compute, channel by channel, out_l3 = sum over paths w_p C^{l1 l2 l3} (a_l1, b_l2) with the path
normalisation of `path_coefficients`. All paths with the same (l1, l2) share one outer product, and their
coefficients form one small matrix, so a product is at most (L+1)^2 matrix products instead of one einsum a path.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tracegrad.nn.constants import Constant
from tracegrad.nn.features import degree_sizes, path_coefficients, paths, split_degrees, wigner_3j
from tracegrad.nn.precision import full_precision


class ChannelwiseProduct(nn.Module):
    """a x b with one weight per path and channel ("uuu"); parities are ignored, so all triples couple.

    Args:
        lmax: degree of both inputs and of the output.
    """

    def __init__(self, lmax: int):
        super().__init__()
        self.lmax = lmax
        triples = paths(lmax, lmax, lmax, parity=False)
        self.n_paths = len(triples)
        self.tables: list[Constant] = []  # per (l1, l2): [m3 of all l3, m1 m2]
        self.targets: list[list[tuple[int, int]]] = []  # per (l1, l2): (path, l3)
        coupled: dict[tuple[int, int], list[tuple[int, int, Tensor]]] = {}
        for path, ((l1, l2, l3), scale) in enumerate(zip(triples, path_coefficients(triples), strict=True)):
            coupled.setdefault((l1, l2), []).append((path, l3, scale * wigner_3j(l1, l2, l3)))
        for entries in coupled.values():
            self.tables.append(Constant(torch.cat([table.flatten(0, 1).T for *_, table in entries])))
            self.targets.append([(path, l3) for path, l3, _ in entries])

    @full_precision
    def forward(
        self, a: Float[Tensor, "m n c"], b: Float[Tensor, "m n c"], weights: Float[Tensor, "#n paths c"]
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


class FilterProduct(nn.Module):
    """x x Y with one weight per path and channel ("uvu"); Y has no channels, and parity selects the paths.

    The coefficients are contracted with Y first: what is left is one small matrix per item and (l1, l2),
    shared by all channels.

    Args:
        lmax_in: degree of x (0 for the first convolution).
        lmax: degree of Y and of the output.
    """

    def __init__(self, lmax_in: int, lmax: int):
        super().__init__()
        self.lmax_in, self.lmax = lmax_in, lmax
        triples = paths(lmax_in, lmax, lmax, parity=True)
        self.n_paths = len(triples)
        sizes = degree_sizes(lmax)
        self.tables: list[Constant] = []  # per l1: [m3 of all (l2, l3) * m1, m2 of all l2]
        self.targets: list[list[tuple[int, int]]] = []
        for l1 in range(lmax_in + 1):
            rows, targets = [], []
            for path, ((first, l2, l3), scale) in enumerate(
                zip(triples, path_coefficients(triples), strict=True)
            ):
                if first == l1:
                    table = torch.zeros(sizes[l3], sizes[l1], sum(sizes), dtype=torch.float64)
                    table[..., l2**2 : (l2 + 1) ** 2] = scale * wigner_3j(l1, l2, l3).permute(2, 0, 1)
                    rows.append(table)
                    targets.append((path, l3))
            self.tables.append(Constant(torch.cat(rows).flatten(0, 1)))
            self.targets.append(targets)

    @full_precision
    def forward(
        self, x: Float[Tensor, "m_in n c"], y: Float[Tensor, "m n"], weights: Float[Tensor, "n paths c"]
    ) -> Float[Tensor, "m n c"]:
        out: dict[int, Tensor] = {}
        per_path = weights.unbind(1)
        for part_in, table, targets in zip(
            split_degrees(x, self.lmax_in), self.tables, self.targets, strict=True
        ):
            filters = (table(y) @ y).unflatten(0, (-1, part_in.shape[0]))  # [m3, m1, n]
            by_item = filters.permute(2, 0, 1).contiguous()  # else bmm runs item by item on the CPU
            coupled = (by_item @ part_in.transpose(0, 1)).transpose(0, 1)  # [m3, n, c]
            add_paths(out, coupled, targets, per_path)
        return torch.cat([out[degree] for degree in range(self.lmax + 1)])


def add_paths(
    out: dict[int, Tensor],
    coupled: Float[Tensor, "m n c"],
    targets: list[tuple[int, int]],
    weights: Sequence[Float[Tensor, "#n c"]],
) -> None:
    """Weight the stacked results of several paths (path, l3) and add each to its degree in ``out``."""
    parts = coupled.split([2 * l3 + 1 for _, l3 in targets])
    for (path, l3), part in zip(targets, parts, strict=True):
        weight = weights[path]
        out[l3] = torch.addcmul(out[l3], part, weight) if l3 in out else part * weight
