"""The expansion of DeepH-E3 from irreps to blocks of H: every pair of shells has separate channels.

Without spin a pair of shells of degrees l1, l2 has one channel of each degree L = |l1 - l2| .. l1 + l2, with parity
(-1)^(l1 + l2), and

    H_m1m2 = sum over L, M of C^{l1 l2 L}_{m1 m2 M} x_LM

With spin the pair has four complex blocks s, x, y, z, which make up

    H_uu = (s + z) / sqrt 2     H_ud = (x - i y) / sqrt 2
    H_du = (x + i y) / sqrt 2   H_dd = (s - z) / sqrt 2

where s has the channels L as before, and the axial vector (x, y, z) has for each L the channels of L (x) 1. Real and
imaginary part have separate channels.

Features are item-first, ``x[irrep][item, m, channel]``.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from e3nn.o3 import Irrep, Irreps
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn

from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.numerics.precision import full_precision
from tracegrad.numerics.wigner_3j import wigner_3j
from tracegrad.ops.shell_pairs.expand import expand
from tracegrad.ops.shell_pairs.maps import ExpansionMap


@dataclass(frozen=True)
class PairType:
    """All pairs of union shells of degrees l1, l2.

    Args:
        l1, l2: degrees of the row shell and of the column shell.
        rows, columns: first union slots of both shells of each pair.
    """

    l1: int
    l2: int
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of matrix elements of one basic block."""
        return (2 * self.l1 + 1) * (2 * self.l2 + 1)


class ShellPairExpansion(nn.Module):
    """Blocks in the union layout from one channel for each irrep of each pair of shells.

    The features must have the irreps ``irreps``, each irrep once, with the channels in the order of `channel_order`.
    The expansion has no trainable parameters.

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
        # For each type, and with spin for its real and its imaginary part: channels of each irrep.
        self._slices: list[list[tuple[Irrep, slice]]] = []
        # For each type [elements, components of all irreps], with spin from `_spin_quadrants`.
        tables: list[Tensor] = []
        for pair in self.types:
            couplings = pair_couplings(pair.l1, pair.l2, spinful=basis.spinful, legacy=legacy)
            table = torch.cat([table.flatten(-3, -2) for _, table in couplings], dim=-1)
            tables.append(_spin_quadrants(table) if basis.spinful else table)
            for _ in range(basis.spins):
                channels = []
                for ir, _ in couplings:
                    channels.append((ir, slice(counts[ir], counts[ir] + len(pair.rows))))
                    counts[ir] += len(pair.rows)
                self._slices.append(channels)
        self.irreps = Irreps([(counts[ir], ir) for ir in sorted(counts, key=lambda ir: (ir.l, ir.p))])
        self.kinds = [(ir.l, ir.p) for _, ir in self.irreps]  # torch.compile does not look through irreps
        self._shape = (basis.dim, basis.dim, 2) if basis.spinful else (basis.dim, basis.dim)
        self.map = ExpansionMap(tables, self._columns(), self._places())

    @full_precision
    def forward(
        self,
        x: list[Float[Tensor, "n _m _c"]],
        rotations: Sequence[Float[Tensor, "n _m _m"] | None] | None = None,
    ) -> Float[Tensor, "n dim dim"] | Complex[Tensor, "n dim dim"]:
        """Blocks from features of the irreps ``irreps``.

        Args:
            x: the features, in the global frame or in frames of their items.
            rotations: for each irrep the matrices from these frames to the global frame; None for an irrep that is
                in the global frame already.
        """
        elements = expand(self.map, x, [None] * len(x) if rotations is None else rotations)
        blocks = elements.unflatten(1, self._shape)
        return torch.view_as_complex(blocks) if self.basis.spinful else blocks

    def channel_order(self) -> dict[tuple[int, int, int], list[tuple[Irrep, int]]]:
        """Irreps and channels of each pair of shells.

        Keys are (row shell, column shell, part), where shells are numbered in the union of one spin and part is 0 for
        the real and 1 for the imaginary part. The irreps of a key are in the order in which DeepH-E3 lists them.
        """
        starts = self.basis.shell_starts[: len(self.basis.union) // self.basis.spins].tolist()
        order = {}
        slices = iter(self._slices)
        for pair in self.types:
            for part in range(self.basis.spins):
                channels = next(slices)
                for k, (row, column) in enumerate(zip(pair.rows, pair.columns, strict=True)):
                    key = (starts.index(row), starts.index(column), part)
                    order[key] = [(ir, at.start + k) for ir, at in channels]
        return order

    def _columns(self) -> list[Int[Tensor, "pairs components"]]:
        """For each type the positions of the components of each pair among the numbers of the features."""
        firsts, first = {}, 0
        for mul, ir in self.irreps:
            firsts[ir] = first + mul * torch.arange(ir.dim)
            first += ir.dim * mul
        slices = iter(self._slices)
        columns = []
        for pair in self.types:
            channels = [entry for _ in range(self.basis.spins) for entry in next(slices)]
            numbers = torch.cat([firsts[ir] + at.start for ir, at in channels])
            columns.append(numbers + torch.arange(len(pair.rows))[:, None])
        return columns

    def _places(self) -> list[Int[Tensor, "pairs elements"]]:
        """For each type the positions of the elements of each pair in a block."""
        spins = self.basis.spins
        shape = (spins, self.spatial, spins, self.spatial, spins)
        block = torch.arange(math.prod(shape)).view(shape)
        return [
            torch.stack(
                [
                    block[:, row : row + 2 * pair.l1 + 1, :, column : column + 2 * pair.l2 + 1]
                    .transpose(1, 2)
                    .flatten()
                    for row, column in zip(pair.rows, pair.columns, strict=True)
                ]
            )
            for pair in self.types
        ]


def _spin_quadrants(table: Float[Tensor, "4 elements m"]) -> Float[Tensor, "_ _"]:
    """Table from real and imaginary components to the spin parts uu, ud, du, dd.

    Args:
        table: coefficients of s, y, z and x.

    Returns:
        Rows (spin part, element, real or imaginary part), columns (real or imaginary part, m).
    """
    s, y, z, x = table.to(torch.complex128)
    quadrants = torch.stack([s + z, x - 1j * y, x + 1j * y, s - z]) / math.sqrt(2)
    of_real, of_imaginary = torch.view_as_real(quadrants), torch.view_as_real(1j * quadrants)
    return torch.cat([of_real, of_imaginary], dim=2).transpose(2, 3).flatten(0, 2)


def pair_couplings(
    l1: int, l2: int, *, spinful: bool, legacy: bool
) -> list[tuple[Irrep, Float[Tensor, "*parts m1 m2 m"]]]:
    """Irreps of a pair of shells in the order of DeepH-E3, each with its table of coefficients.

    Without spin a table is C^{l1 l2 L}; with spin its first dimension is s, y, z, x.
    """
    parity = (-1) ** (l1 + l2)
    degrees = range(abs(l1 - l2), l1 + l2 + 1)
    scalar = [(Irrep(degree, parity), wigner_3j(l1, l2, degree, legacy)) for degree in degrees]
    if not spinful:
        return scalar
    couplings = []
    for ir, table in scalar:
        couplings.append((ir, torch.cat([table[None], table.new_zeros(3, *table.shape)])))
    for ir, table in scalar:
        for total in range(abs(ir.l - 1), ir.l + 2):
            vector = torch.einsum("abM,Mcm->cabm", table, wigner_3j(ir.l, 1, total, legacy))
            padded = torch.cat([vector.new_zeros(1, *vector.shape[1:]), vector])
            couplings.append((Irrep(total, parity), padded))
    return couplings


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
