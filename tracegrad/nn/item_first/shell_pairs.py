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
from itertools import chain

import torch
from e3nn.o3 import Irrep, Irreps
from jaxtyping import Complex, Float
from torch import Tensor, nn

from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.nn.item_first.shell_pairs_kernel import ExpansionMaps, OptionalRotation, SparseMap, expand
from tracegrad.numerics.constants import Constant
from tracegrad.numerics.precision import full_precision
from tracegrad.numerics.wigner_3j import wigner_3j
from tracegrad.ops import native

ZERO = 1e-12  # smaller coefficients are rounding errors


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
        self._tables: list[Constant] = []
        for pair in self.types:
            couplings = pair_couplings(pair.l1, pair.l2, spinful=basis.spinful, legacy=legacy)
            table = torch.cat([table.flatten(-3, -2) for _, table in couplings], dim=-1)
            self._tables.append(Constant(_spin_quadrants(table) if basis.spinful else table))
            for _ in range(basis.spins):
                channels = []
                for ir, _ in couplings:
                    channels.append((ir, slice(counts[ir], counts[ir] + len(pair.rows))))
                    counts[ir] += len(pair.rows)
                self._slices.append(channels)
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
        """Blocks from features of the irreps ``irreps``.

        Args:
            x: the features, in the global frame or in frames of their items.
            rotations: for each irrep the matrices from these frames to the global frame; None for an irrep that is
                in the global frame already.
        """
        matrices = [None] * len(x) if rotations is None else list(rotations)
        elements = expand(self._maps, x, matrices, lambda *parts: self._plain(parts, matrices))
        blocks = elements.unflatten(1, self._shape)
        return torch.view_as_complex(blocks) if self.basis.spinful else blocks

    def _plain(
        self, x: Sequence[Float[Tensor, "n _m _c"]], rotations: Sequence[OptionalRotation]
    ) -> Float[Tensor, "n elements"]:
        """`expand` in plain torch: one matrix product for each type of pairs of shells."""
        x = [part if matrix is None else matrix @ part for part, matrix in zip(x, rotations, strict=True)]
        sizes: dict[Irrep, list[int]] = {ir: [] for _, ir in self.irreps}
        for ir, at in chain(*self._slices):
            sizes[ir].append(at.stop - at.start)
        pieces = {ir: iter(y.split(sizes[ir], dim=2)) for (_, ir), y in zip(self.irreps, x, strict=True)}
        slices = iter(self._slices)
        of_types = []
        for table in self._tables:
            parts = [next(pieces[ir]) for _ in range(self.basis.spins) for ir, _ in next(slices)]
            components = torch.cat([y.transpose(1, 2) for y in parts], dim=2)
            of_types.append((components @ table(components).T).flatten(1))  # [n, (pairs, elements)]
        elements = torch.cat(of_types, dim=1)
        if native.transformed():
            return elements.index_select(1, self.order)
        return _Reordered.apply(elements, self.order, self.back)

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

    def _map(self, *, transposed: bool = False) -> SparseMap:
        """The sparse matrix from the numbers of a feature to the elements of a block, or its transpose."""
        firsts, first = {}, 0
        for mul, ir in self.irreps:
            firsts[ir] = first + mul * torch.arange(ir.dim)
            first += ir.dim * mul
        slices = iter(self._slices)
        rows, columns, values, start = [], [], [], 0
        for pair, table in zip(self.types, self._tables, strict=True):
            count = len(pair.rows)
            channels = [entry for _ in range(self.basis.spins) for entry in next(slices)]
            numbers = torch.cat([firsts[ir] + at.start for ir, at in channels])
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
        """For each element of a block its position among the elements of all pairs, one type after another."""
        spins = self.basis.spins
        order = torch.empty(spins, self.spatial, spins, self.spatial, spins, dtype=torch.long)
        start = 0
        for pair in self.types:
            rows, columns = 2 * pair.l1 + 1, 2 * pair.l2 + 1
            shape = (len(pair.rows), spins, spins, rows, columns, spins)
            elements = start + torch.arange(math.prod(shape)).view(shape)
            for of_pair, row, column in zip(elements, pair.rows, pair.columns, strict=True):
                order[:, row : row + rows, :, column : column + columns] = of_pair.transpose(1, 2)
            start += math.prod(shape)
        return order.flatten()


class _Reordered(torch.autograd.Function):
    """``x[:, order]`` for a permutation; its gradient is the inverse permutation ``back``, cheaper than a sum."""

    @staticmethod
    def forward(ctx, x: Tensor, order: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(order, back)
        return x.index_select(1, order)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        order, back = ctx.saved_tensors
        return _Reordered.apply(gradient, back, order), None, None


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
