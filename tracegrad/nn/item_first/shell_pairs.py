"""Hamiltonian blocks from the irreps of DeepH-E3: every pair of shells has channels of its own.

Without spin a pair of shells l1, l2 has one channel of each degree L = |l1 - l2| .. l1 + l2 with parity
(-1)^(l1 + l2), and H_m1m2 = sum_L C^{l1 l2 L}_{m1 m2 M} x_LM. With spin the pair has complex blocks s, x, y, z that
make up uu = (s + z) / sqrt 2, ud = (x - i y) / sqrt 2, du = (x + i y) / sqrt 2, dd = (s - z) / sqrt 2; s has the
channels L as before, and the axial vector (x, y, z) has for each L the channels of L (x) 1. Real and imaginary part
have channels of their own.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from e3nn.o3 import Irrep, Irreps
from jaxtyping import Complex, Float
from torch import Tensor, nn

from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.nn.component_first.features import wigner_3j
from tracegrad.nn.item_first.shell_pairs_kernel import ExpansionMaps, OptionalRotation, SparseMap, expand
from tracegrad.numerics import native
from tracegrad.numerics.constants import Constant
from tracegrad.numerics.precision import full_precision

ZERO = 1e-12


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
        ] = []  # per type: [elements, components of all irreps], with spin as of `_spin_quadrants`
        for pair in self.types:
            couplings = pair_couplings(pair.l1, pair.l2, spinful=basis.spinful, legacy=legacy)
            table = torch.cat([table.flatten(-3, -2) for _, table in couplings], dim=-1)
            self._tables.append(Constant(_spin_quadrants(table) if basis.spinful else table))
            for _ in range(basis.spins):
                found = []
                for ir, _ in couplings:
                    found.append((ir, slice(counts[ir], counts[ir] + len(pair.rows))))
                    counts[ir] += len(pair.rows)
                self._slices.append(found)
        self.irreps = Irreps([(counts[ir], ir) for ir in sorted(counts, key=lambda ir: (ir.l, ir.p))])
        self.register_buffer("order", self._order(), persistent=False)
        self.register_buffer("back", torch.argsort(self.order), persistent=False)
        self.order: Tensor
        self.back: Tensor
        self._shape = (basis.dim, basis.dim, 2) if basis.spinful else (basis.dim, basis.dim)
        self._maps = ExpansionMaps(self._map(), self._map(transposed=True))

    @full_precision
    def forward(
        self, x: list[Float[Tensor, "n _m _c"]], rotations: Sequence[OptionalRotation] | None = None
    ) -> Float[Tensor, "n dim dim"] | Complex[Tensor, "n dim dim"]:
        """Blocks from the features ``irreps``.

        Args:
            x: the features, in the global frame or frames of their own.
            rotations: from these to the global frame, for each irrep; None where it is there.
        """
        turns = [None] * len(x) if rotations is None else list(rotations)
        made = expand(self._maps, x, turns, lambda *parts: self._plain(parts, turns))
        blocks = made.unflatten(1, self._shape)
        return torch.view_as_complex(blocks) if self.basis.spinful else blocks

    def _plain(
        self, x: Sequence[Float[Tensor, "n _m _c"]], rotations: Sequence[OptionalRotation]
    ) -> Float[Tensor, "n elements"]:
        """One product for each type of pairs of shells."""
        x = [part if turn is None else turn @ part for part, turn in zip(x, rotations, strict=True)]
        sizes: dict[Irrep, list[int]] = {ir: [] for _, ir in self.irreps}
        for ir, at in chain(*self._slices):
            sizes[ir].append(at.stop - at.start)
        pieces = {ir: iter(y.split(sizes[ir], dim=2)) for (_, ir), y in zip(self.irreps, x, strict=True)}
        slices = iter(self._slices)
        made = []
        for table in self._tables:
            found = [next(pieces[ir]) for _ in range(self.basis.spins) for ir, _ in next(slices)]
            components = torch.cat([y.transpose(1, 2) for y in found], dim=2)
            made.append((components @ table(components).T).flatten(1))  # [n, (pairs, elements)]
        elements = torch.cat(made, dim=1)
        if native.transformed():
            return elements.index_select(1, self.order)
        return _Reordered.apply(elements, self.order, self.back)

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

    def _map(self, *, transposed: bool = False) -> SparseMap:
        """The expansion as a matrix, pair after pair of shells."""
        firsts, first = {}, 0
        for mul, ir in self.irreps:
            firsts[ir] = first + mul * torch.arange(ir.dim)
            first += ir.dim * mul
        slices = iter(self._slices)
        rows, columns, values, start = [], [], [], 0
        for pair, table in zip(self.types, self._tables, strict=True):
            count = len(pair.rows)
            found = [piece for _ in range(self.basis.spins) for piece in next(slices)]
            numbers = torch.cat([firsts[ir] + at.start for ir, at in found])
            components = numbers + torch.arange(count)[:, None]  # [pairs, components]
            exact = table(torch.empty(0, dtype=torch.float64))
            elements = self.back[start : start + count * len(exact)].view(count, -1)
            start += count * len(exact)
            to, of = (components, elements) if transposed else (elements, components)
            matrix = exact.T if transposed else exact
            at = (matrix.abs() > ZERO).nonzero().T
            rows.append(to[:, at[0]].flatten())
            columns.append(of[:, at[1]].flatten())
            values.append(matrix[at[0], at[1]].repeat(count))
        return SparseMap.of(torch.cat(rows), torch.cat(columns), torch.cat(values))

    def _order(self) -> Tensor:
        """Position among the elements of all pairs, type after type, of each element of a block."""
        spins = self.basis.spins
        order = torch.empty(spins, self.spatial, spins, self.spatial, spins, dtype=torch.long)
        start = 0
        for pair in self.types:
            rows, columns = 2 * pair.l1 + 1, 2 * pair.l2 + 1
            shape = (len(pair.rows), spins, spins, rows, columns, spins)
            elements = start + torch.arange(math.prod(shape)).view(shape)
            for found, row, column in zip(elements, pair.rows, pair.columns, strict=True):
                order[:, row : row + rows, :, column : column + columns] = found.transpose(1, 2)
            start += math.prod(shape)
        return order.flatten()


class _Reordered(torch.autograd.Function):
    """``x[:, order]`` for a permutation, whose gradient is another one, ``back``, and not a sum."""

    @staticmethod
    def forward(ctx, x: Tensor, order: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(order, back)
        return x.index_select(1, order)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        order, back = ctx.saved_tensors
        return _Reordered.apply(gradient, back, order), None, None


def _spin_quadrants(table: Float[Tensor, "4 elements m"]) -> Float[Tensor, "_ _"]:
    """From real and imaginary components to uu, ud, du, dd, each with its elements and their two parts."""
    s, y, z, x = table.to(torch.complex128)
    quadrants = torch.stack([s + z, x - 1j * y, x + 1j * y, s - z]) / math.sqrt(2)
    of_real, of_imaginary = torch.view_as_real(quadrants), torch.view_as_real(1j * quadrants)
    return torch.cat([of_real, of_imaginary], dim=2).transpose(2, 3).flatten(0, 2)


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
