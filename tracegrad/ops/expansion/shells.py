"""Tables of the expansion of features into blocks over a union of shells."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tracegrad.numerics.constants import Constant
from tracegrad.numerics.wigner_3j import wigner_3j
from tracegrad.ops.named_table import NamedTable


@dataclass(frozen=True)
class ExpansionShells(NamedTable):
    """The shells of a block, and the degrees and channels of the features that are expanded.

    A path is (l, l1, l2) with |l1 - l2| <= l <= l1 + l2, in ascending order. Each pair of shells u of degree l1 and v
    of degree l2 takes one mixture of the channels of degree l; all these mixtures, path by path, are called *mixed*.

    Args:
        lmax: degree of the features.
        channels: of each degree.
        shells: degrees of the union shells, ascending.
    """

    lmax: int
    channels: int
    shells: tuple[int, ...]

    @property
    def dim(self) -> int:
        """Rows of a block."""
        return sum(2 * degree + 1 for degree in self.shells)

    @cached_property
    def multiplicities(self) -> tuple[int, ...]:
        """Number of mixtures of each degree of the features."""
        counts = Counter(self.shells)
        made = [0] * (self.lmax + 1)
        for degree, l1, l2 in self._paths():
            made[degree] += counts[l1] * counts[l2]
        return tuple(made)

    @property
    def mixtures(self) -> int:
        """Number of mixtures of all degrees."""
        return sum(self.multiplicities)

    @property
    def components(self) -> int:
        """Number of components of all mixtures."""
        return sum((2 * degree + 1) * count for degree, count in enumerate(self.multiplicities))

    @cached_property
    @torch.inference_mode(False)
    def order(self) -> Tensor:
        """The index from the flat weights (path, channel, u, v) to [mixture, channel]."""
        counts, index, offset = Counter(self.shells), [], 0
        for _, l1, l2 in self._paths():
            size = counts[l1] * counts[l2]
            index.append(offset + torch.arange(self.channels * size).view(self.channels, size).T)
            offset += self.channels * size
        return torch.cat(index).flatten()

    @cached_property
    def table(self) -> Constant:
        """The matrix [components of all mixtures, elements of a block] / channels."""
        first = dict.fromkeys(self.shells, 0)
        for shell in first:
            first[shell] = sum(2 * other + 1 for other in self.shells if other < shell)
        counts, tables = Counter(self.shells), []
        for degree, l1, l2 in self._paths():
            coupling = wigner_3j(l1, l2, degree).permute(2, 0, 1) / self.channels
            for u in range(counts[l1]):
                for v in range(counts[l2]):
                    table = torch.zeros(2 * degree + 1, self.dim, self.dim, dtype=torch.float64)
                    row, column = first[l1] + u * (2 * l1 + 1), first[l2] + v * (2 * l2 + 1)
                    table[:, row : row + 2 * l1 + 1, column : column + 2 * l2 + 1] = coupling
                    tables.append(table.flatten(1))
        return Constant(torch.cat(tables))

    @cached_property
    @torch.inference_mode(False)
    def entries(self) -> tuple[Tensor, Tensor, Constant]:
        """Row, column and value of all entries of the table that are not zero."""
        exact = self.table(torch.empty(0, dtype=torch.float64))
        rows, columns = (exact.abs() > 1e-14).nonzero(as_tuple=True)  # smaller numbers are rounding errors
        return rows, columns, Constant(exact[rows, columns])

    def _paths(self) -> Iterator[tuple[int, int, int]]:
        degrees = sorted(set(self.shells))
        for degree in range(self.lmax + 1):
            for l1 in degrees:
                for l2 in degrees:
                    if abs(l1 - l2) <= degree <= l1 + l2:
                        yield degree, l1, l2
