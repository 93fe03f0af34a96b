"""Hamiltonian blocks from the irreps of DeepH-E3: every pair of shells has channels of its own.

Without spin a pair of shells l1, l2 has one channel of each degree L = |l1 - l2| .. l1 + l2 with parity
(-1)^(l1 + l2), and H_m1m2 = sum_L C^{l1 l2 L}_{m1 m2 M} x_LM. With spin the pair has complex blocks s, x, y, z that
make up uu = (s + z) / sqrt 2, ud = (x - i y) / sqrt 2, du = (x + i y) / sqrt 2, dd = (s - z) / sqrt 2; s has the
channels L as before, and the axial vector (x, y, z) has for each L the channels of L (x) 1. Real and imaginary part
have channels of their own.
"""

import math
from collections import Counter
from dataclasses import dataclass

import torch
from e3nn.o3 import Irrep, Irreps
from jaxtyping import Complex, Float
from torch import Tensor, nn

from tracegrad.basis import OrbitalBasis
from tracegrad.nn.constants import Constant
from tracegrad.nn.features import wigner_3j
from tracegrad.nn.precision import full_precision


@dataclass(frozen=True)
class PairType:
    """All pairs of union shells of degrees l1, l2."""

    l1: int
    l2: int
    rows: tuple[int, ...]  # first union slot of the row shell of each pair
    columns: tuple[int, ...]

    @property
    def size(self) -> int:
        """Elements of one block."""
        return (2 * self.l1 + 1) * (2 * self.l2 + 1)


class ShellPairExpansion(nn.Module):
    """Blocks in the union layout from one channel for each irrep of each pair of shells.

    ``irreps`` is what the network has to deliver: each irrep once, in the order of `channel_order`. Nothing is
    trained here.

    Args:
        basis: orbital basis.
        legacy: signs of the Clebsch-Gordan coefficients of e3nn 0.3.5.
    """

    def __init__(self, basis: OrbitalBasis, *, legacy: bool = False):
        super().__init__()
        self.basis = basis
        self.types = _pair_types(basis)
        self.spatial = basis.dim // basis.spins
        counts: Counter[Irrep] = Counter()
        self._slices: list[
            list[tuple[Irrep, slice]]
        ] = []  # per type and real or imaginary part: its channels
        self._tables: list[
            Constant
        ] = []  # per type: [elements (times 4 spin parts), components of all irreps]
        for pair in self.types:
            couplings = pair_couplings(pair.l1, pair.l2, spinful=basis.spinful, legacy=legacy)
            self._tables.append(Constant(torch.cat([table.flatten(0, -2) for _, table in couplings], dim=1)))
            for _ in range(basis.spins):
                found = []
                for ir, _ in couplings:
                    found.append((ir, slice(counts[ir], counts[ir] + len(pair.rows))))
                    counts[ir] += len(pair.rows)
                self._slices.append(found)
        self.irreps = Irreps([(counts[ir], ir) for ir in sorted(counts, key=lambda ir: (ir.l, ir.p))])
        self.register_buffer("order", self._order(), persistent=False)
        self.order: Tensor

    @full_precision
    def forward(
        self, x: list[Float[Tensor, "n _m _c"]]
    ) -> Float[Tensor, "n dim dim"] | Complex[Tensor, "n dim dim"]:
        """Blocks from the features ``irreps`` in the global frame."""
        by_irrep = {ir: part for (_, ir), part in zip(self.irreps, x, strict=True)}
        slices = iter(self._slices)
        parts: list[list[Tensor]] = [[] for _ in range(self.basis.spins)]  # real and imaginary
        for table in self._tables:
            for part in parts:
                components = torch.cat([by_irrep[ir][:, :, at] for ir, at in next(slices)], dim=1)
                part.append(table(components) @ components)  # [n, (spin) elements, pairs]
        if not self.basis.spinful:
            return self._place(torch.cat([block.flatten(1) for block in parts[0]], dim=1))
        n = len(x[0])
        real, imaginary = (
            torch.cat([block.view(n, 4, -1) for block in part], dim=2) for part in parts
        )  # [n, (s, y, z, x), elements of all pairs]
        s, y, z, x_ = torch.complex(real, imaginary).unbind(1)
        quadrants = (s + z, x_ - 1j * y, x_ + 1j * y, s - z)
        uu, ud, du, dd = (self._place(q / math.sqrt(2)) for q in quadrants)
        return torch.cat([torch.cat([uu, ud], dim=2), torch.cat([du, dd], dim=2)], dim=1)

    def channel_order(self) -> dict[tuple[int, int, int], list[tuple[Irrep, int]]]:
        """Irreps and channels of each pair of shells.

        Keys are (row shell, column shell, part) with shells counted in the union of one spin and part 0 for real,
        1 for imaginary; the irreps of a key stand in the order in which DeepH-E3 lists them.
        """
        starts = self.basis.shell_starts[: len(self.basis.union) // self.basis.spins].tolist()
        order = {}
        slices = iter(self._slices)
        for pair in self.types:
            for part in range(self.basis.spins):
                found = next(slices)
                for k, (row, column) in enumerate(zip(pair.rows, pair.columns, strict=True)):
                    key = (starts.index(row), starts.index(column), part)
                    order[key] = [(ir, at.start + k) for ir, at in found]
        return order

    def _place(self, flat: Tensor) -> Tensor:
        return flat.index_select(1, self.order).view(-1, self.spatial, self.spatial)

    def _order(self) -> Tensor:
        """Position among the elements of all pairs, type after type, of each element of a block."""
        order = torch.empty(self.spatial, self.spatial, dtype=torch.long)
        start = 0
        for pair in self.types:
            count = len(pair.rows)
            elements = start + torch.arange(pair.size * count).view(2 * pair.l1 + 1, 2 * pair.l2 + 1, count)
            for k, (row, column) in enumerate(zip(pair.rows, pair.columns, strict=True)):
                order[row : row + 2 * pair.l1 + 1, column : column + 2 * pair.l2 + 1] = elements[..., k]
            start += pair.size * count
        return order.flatten()


def pair_couplings(
    l1: int, l2: int, *, spinful: bool, legacy: bool
) -> list[tuple[Irrep, Float[Tensor, "*parts m1 m2 m"]]]:
    """Irreps of a pair of shells in DeepH-E3's order, each with its table.

    Without spin a table is C^{l1 l2 L}; with spin it has a first dimension for s, y, z, x.
    """
    parity = (-1) ** (l1 + l2)
    degrees = range(abs(l1 - l2), l1 + l2 + 1)
    scalar = [(Irrep(degree, parity), wigner_3j(l1, l2, degree, legacy)) for degree in degrees]
    if not spinful:
        return scalar
    found = []
    for ir, table in scalar:
        found.append((ir, torch.cat([table[None], table.new_zeros(3, *table.shape)])))
    for ir, table in scalar:
        for total in range(abs(ir.l - 1), ir.l + 2):
            vector = torch.einsum("abM,Mcm->cabm", table, wigner_3j(ir.l, 1, total, legacy))
            padded = torch.cat([vector.new_zeros(1, *vector.shape[1:]), vector])
            found.append((Irrep(total, parity), padded))
    return found


def _pair_types(basis: OrbitalBasis) -> list[PairType]:
    shells = len(basis.union) // basis.spins
    starts: dict[int, list[int]] = {}
    for start, degree in zip(basis.shell_starts[:shells].tolist(), basis.union[:shells], strict=True):
        starts.setdefault(degree, []).append(start)
    types = []
    for l1, rows in starts.items():
        for l2, columns in starts.items():
            pairs = [(row, column) for row in rows for column in columns]
            types.append(PairType(l1, l2, *(tuple(side) for side in zip(*pairs, strict=True))))
    return types
