"""Overlaps of a structure, S(R)_ij = <i in cell 0|j in cell R>, from the radial functions of its elements.

The block of a pair is S = D_a S' D_b^T, with the integrals S'_m of `PairTable` on the diagonal in the frame of the
pair and the rotations D of `edge_rotation`. Everything is torch, so that positions and lattice have derivatives.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd import forward_ad

from tracegrad.data.crystals.structure import species_entries
from tracegrad.errors import BasisError
from tracegrad.hamiltonian.basis import CONVENTIONS, OrbitalBasis
from tracegrad.ops.edge_rotation.edge_rotation import edge_rotation
from tracegrad.physics.overlaps.radial_shells import RadialShells
from tracegrad.physics.overlaps.radial_tables import PairTable, ShellPair, Transforms

LARGEST_MOMENTUM = 60.0  # 1/bohr
_CHUNK = 8192  # pairs of atoms at a time


class TwoCentreOverlaps:
    """Overlaps of pairs of atoms. Tables are made when a pair of elements is first asked for, and kept.

    Args:
        shells: of each element (by atomic number).
        largest_momentum: K of `radial_tables`, 1/bohr. 60 makes overlaps of pairs exact to 1e-8, and on-site ones to
            1e-6 or better. For a code that cuts its own integrals, such as old versions of ABACUS, give its cut.

    Raises:
        BasisError: no elements, or K is not positive.
    """

    def __init__(
        self, shells: Mapping[int, RadialShells], largest_momentum: float = LARGEST_MOMENTUM
    ) -> None:
        if not shells or not 0 < largest_momentum <= 100:
            raise BasisError(
                f"overlaps of {len(shells)} elements up to {largest_momentum} 1/bohr; give at least one element and "
                "a momentum between 0 and 100"
            )
        self.shells = dict(shells)
        self._transforms = Transforms(self.shells, float(largest_momentum))
        self._tables: dict[tuple[int, int], PairTable] = {}

    def table(self, first: int, second: int) -> PairTable:
        """The integrals of two elements (atomic numbers)."""
        for number in (first, second):
            if number not in self.shells:
                raise BasisError(
                    f"atomic number {number} has no basis file; the others are {sorted(self.shells)}"
                )
        if (first, second) not in self._tables:
            self._tables[first, second] = PairTable(self._transforms, first, second)
        return self._tables[first, second]

    def blocks(
        self, vectors: Float[Tensor, "edges 3"], first: int, second: int, convention: str | None = None
    ) -> Float[Tensor, "edges rows columns"]:
        """Blocks of pairs of one kind.

        Args:
            vectors: from the first to the second atom, angstrom; the zero vector is an on-site pair.
            first, second: atomic numbers.
            convention: order of the orbitals in a shell, a key of ``CONVENTIONS``; None: m = -l .. l.

        Raises:
            BasisError: an element without shells.
        """
        table = self.table(first, second)
        places = torch.from_numpy(_places(table.pairs, self.shells[first], self.shells[second], convention))
        parts = [
            _standard_blocks(chunk, table)[:, places.flatten().to(vectors.device)]
            for chunk in vectors.split(_CHUNK)
        ]
        return torch.cat(parts).unflatten(1, places.shape)

    def derivatives(
        self, vectors: Float[Tensor, "edges 3"], first: int, second: int, convention: str | None = None
    ) -> Float[Tensor, "3 edges rows columns"]:
        """Derivatives of `blocks` by x, y and z of the vectors, 1/angstrom; 0 for on-site pairs."""

        def of(moved: Tensor) -> Tensor:
            return self.blocks(moved, first, second, convention)

        axes = torch.eye(3, dtype=vectors.dtype, device=vectors.device)
        return torch.stack([_along(of, vectors, axis.expand_as(vectors)) for axis in axes])

    def entries(
        self,
        numbers: Int64[np.ndarray, " atoms"],
        positions: Float[Tensor, "atoms 3"],
        lattice: Float[Tensor, "3 3"],
        edges: Int64[np.ndarray, "pairs 5"],
        basis: OrbitalBasis,
    ) -> Float[Tensor, " entries"]:
        """Entries of all blocks in the order of the edges, each flattened row by row, as in `Structure`.

        Args:
            numbers: atomic numbers.
            positions: angstrom.
            lattice: rows are lattice vectors, angstrom.
            edges: rows [Rx, Ry, Rz, i, j].
            basis: with the shells of these elements, without spin; its convention is the order of the orbitals.

        Raises:
            BasisError: shells of the basis that are not those of the radial functions, or a basis with spin.
        """
        for number in np.unique(numbers).tolist():
            given = self.shells[number].degrees if number in self.shells else None
            if basis.spinful or basis.shells.get(number) != given:
                raise BasisError(
                    f"overlaps of atomic number {number}: the shells {given} do not fit the basis {basis.name}; "
                    "select the shells of this basis, which has no spin"
                )
        cells = torch.from_numpy(edges[:, :3]).to(positions)
        i, j = torch.from_numpy(edges[:, 3:]).T.to(positions.device)
        vectors = positions[j] - positions[i] + cells @ lattice
        where, values = [], []
        for chosen, entries in species_entries(edges, numbers, basis):
            a, b = numbers[edges[chosen[0], 3:]].tolist()
            selected = torch.from_numpy(chosen).to(positions.device)
            values.append(self.blocks(vectors[selected], a, b, basis.convention).flatten())
            where.append(torch.from_numpy(entries).flatten())
        flat = torch.cat(values)
        return torch.zeros_like(flat).index_copy(0, torch.cat(where).to(flat.device), flat)

    def entries_along(
        self,
        numbers: Int64[np.ndarray, " atoms"],
        positions: Float[Tensor, "atoms 3"],
        lattice: Float[Tensor, "3 3"],
        edges: Int64[np.ndarray, "pairs 5"],
        basis: OrbitalBasis,
        along: Float[Tensor, "atoms 3"],
    ) -> Float[Tensor, " entries"]:
        """Derivatives of `entries` where the atoms move, 1/angstrom times the unit of the displacement ``along``.

        Atoms move together with their images in all cells. Arguments and errors are those of `entries`.
        """

        def of(moved: Tensor) -> Tensor:
            return self.entries(numbers, moved, lattice, edges, basis)

        return _along(of, positions, along.to(positions))


def _along(function: Callable[[Tensor], Tensor], x: Tensor, direction: Tensor) -> Tensor:
    """Derivative of a function along a direction.

    Unlike `torch.func.jvp` it leaves tensors that do not move as they are, so that tables can be made meanwhile.
    """
    with forward_ad.dual_level():
        found = forward_ad.unpack_dual(function(forward_ad.make_dual(x, direction)))
    return torch.zeros_like(found.primal) if found.tangent is None else found.tangent


def _by_degrees(pairs: list[ShellPair]) -> Iterator[tuple[tuple[int, int], list[ShellPair]]]:
    for degrees, members in groupby(pairs, key=lambda pair: pair.degrees):
        yield degrees, list(members)


def _standard_blocks(vectors: Tensor, table: PairTable) -> Tensor:
    """[edges, rows * columns] of all pairs of shells, one behind the other in the order of the table."""
    degrees = {degree for pair in table.pairs for degree in pair.degrees}
    rotations = {degree: edge_rotation(vectors, degree, (-1) ** degree) for degree in degrees}
    # The norm of a zero vector has no derivative, but an on-site block has: 0.
    squares = vectors.square().sum(1)
    on_site = squares == 0
    distances = torch.where(on_site, 0.0, torch.where(on_site, 1.0, squares).sqrt())
    integrals = table(distances)
    parts, start = [], 0
    for (la, lb), members in _by_degrees(table.pairs):
        least = min(la, lb)
        width = least + 1
        of_m = integrals[:, start : start + width * len(members)].unflatten(1, (len(members), width))
        start += width * len(members)
        diagonal = torch.cat([of_m[..., 1:].flip(-1), of_m], dim=-1)  # m = -least .. least
        a, b = (rotations[degree][:, :, degree - least : degree + least + 1] for degree in (la, lb))
        left = (diagonal[:, :, None] * a[:, None]).flatten(1, 2)  # [edges, members * ma, m]
        parts.append((left @ b.mT).flatten(1))
    return torch.cat(parts, dim=1)


def _places(
    pairs: list[ShellPair], first: RadialShells, second: RadialShells, convention: str | None
) -> Int64[np.ndarray, "rows columns"]:
    """For each element of a block its position in `_standard_blocks`."""
    rows, columns = _orbitals(first, convention), _orbitals(second, convention)
    sizes = [(2 * p.degrees[0] + 1) * (2 * p.degrees[1] + 1) for p in pairs]
    start = {(p.first, p.second): sum(sizes[:n]) for n, p in enumerate(pairs)}
    return np.array(
        [[start[i, j] + m * (2 * second.degrees[j] + 1) + n for j, n in columns] for i, m in rows]
    )


def _orbitals(shells: RadialShells, convention: str | None) -> list[tuple[int, int]]:
    """Shell and l + m of each orbital of an atom in the order of the convention."""
    orders = CONVENTIONS[convention] if convention is not None else {}
    orbitals: list[tuple[int, int]] = []
    for position, degree in enumerate(shells.degrees):
        of_m = orders.get(degree, range(2 * degree + 1))
        orbitals += [(position, int(m)) for m in np.argsort(of_m)]
    return orbitals
