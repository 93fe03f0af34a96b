"""The expansion of QHNet from component-first features to blocks of H."""

from collections import Counter

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tracegrad.nn.component_first.features import split_degrees
from tracegrad.numerics.constants import Constant
from tracegrad.numerics.precision import full_precision
from tracegrad.numerics.wigner_3j import wigner_3j


class BlockExpansion(nn.Module):
    """Expand features into blocks over a union of shells (the tensor expansion of QHNet).

    For each path (l, l1, l2):

        block[(u, i), (v, j)] += sum_k C^{l1 l2 l}_{ijk} (sum_w W_{wuv} x_{lk,w} + b_{uv}) / C_in

    where u, v number the shells of degrees l1, l2, and i, j, k are components. The bias exists for l = 0 only. Each
    item has its own W and b, flat, one path after another in the order (l, l1, l2).

    Args:
        lmax: degree of the features.
        channels: C_in, channels of each degree.
        shells: degrees of the union shells, ascending.
    """

    def __init__(self, lmax: int, channels: int, shells: tuple[int, ...]):
        super().__init__()
        self.lmax, self.channels = lmax, channels
        counts = Counter(shells)
        degrees = sorted(counts)
        self.dim = sum(2 * degree + 1 for degree in shells)
        starts = {d: sum((2 * e + 1) * counts[e] for e in degrees if e < d) for d in degrees}
        self.tables: list[Constant | None] = []  # for each degree: [(u, v) of all paths * m, block elements]
        self.multiplicities: list[int] = []  # number of pairs (u, v) of each degree of the features
        for degree in range(lmax + 1):
            tables = []
            for l1 in degrees:
                for l2 in degrees:
                    if abs(l1 - l2) <= degree <= l1 + l2:
                        tables += self._tables(l1, l2, degree, counts, starts)
            self.multiplicities.append(len(tables))
            self.tables.append(Constant(torch.cat(tables)) if tables else None)
        self.n_bias = self.multiplicities[0]
        self.n_weights = channels * sum(self.multiplicities)
        self._order_weights(degrees, counts)

    @full_precision
    def forward(
        self,
        x: Float[Tensor, "m n c"],
        weights: Float[Tensor, "n weights"],
        bias: Float[Tensor, "n bias"],
    ) -> Float[Tensor, "n dim dim"]:
        """Blocks of all items. Degrees that no pair of shells couples to are ignored."""
        items = x.shape[1]
        blocks: Tensor | None = None
        per_degree = weights.split([self.channels * m for m in self.multiplicities], dim=-1)
        for degree, (part, weight) in enumerate(zip(split_degrees(x, self.lmax), per_degree, strict=True)):
            table = self.tables[degree]
            if table is None:
                continue
            ordered = weight.index_select(1, getattr(self, f"order_{degree}"))
            matrix = ordered.view(items, self.multiplicities[degree], self.channels)
            mixed = matrix @ part.permute(1, 2, 0)  # [n, (u, v), m]
            if degree == 0:
                mixed = mixed + bias[..., None]
            term = mixed.flatten(1) @ table(mixed)
            blocks = term if blocks is None else blocks + term
        assert blocks is not None  # degree 0 always couples a shell with itself
        return (blocks / self.channels).view(items, self.dim, self.dim)

    def _tables(
        self, l1: int, l2: int, degree: int, counts: Counter[int], starts: dict[int, int]
    ) -> list[Float[Tensor, "m elements"]]:
        coupling = wigner_3j(l1, l2, degree).permute(2, 0, 1)
        tables = []
        for u in range(counts[l1]):
            for v in range(counts[l2]):
                table = torch.zeros(2 * degree + 1, self.dim, self.dim, dtype=torch.float64)
                row, column = starts[l1] + u * (2 * l1 + 1), starts[l2] + v * (2 * l2 + 1)
                table[:, row : row + 2 * l1 + 1, column : column + 2 * l2 + 1] = coupling
                tables.append(table.flatten(1))
        return tables

    def _order_weights(self, degrees: list[int], counts: Counter[int]) -> None:
        """Register for each degree the index from the weights (path, w, u, v), which are flat, to (path, u, v, w)."""
        for degree in range(self.lmax + 1):
            index, offset = [], 0
            for l1 in degrees:
                for l2 in degrees:
                    if abs(l1 - l2) <= degree <= l1 + l2:
                        size = counts[l1] * counts[l2]
                        flat = offset + torch.arange(self.channels * size).view(self.channels, size)
                        index.append(flat.T)
                        offset += self.channels * size
            if index:
                self.register_buffer(f"order_{degree}", torch.cat(index).flatten(), persistent=False)
