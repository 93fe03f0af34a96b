"""Crystals and molecules from FHI-aims: calculations with ``output_rs_matrices plain`` or ``output h_s_matrices``.

The functions of a shell are m = -l .. l, those of odd positive m with a minus sign. Only the matrices without
spin-orbit coupling are written, also with ``include_spin_orbit``. The Fermi level is in none of the files that are
read (listed in `tracegrad.data.crystal_files.aims_files`). Core states are in the basis, so that H has levels down
to -20 keV. A molecule is put into a box so large that no orbital reaches an image.
"""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64

from tracegrad.data.crystal_files.aims_files import (
    read_basis_indices,
    read_geometry,
    read_sparse_index,
    read_triangle,
    read_values,
)
from tracegrad.data.crystals.calculation_text import calculation_text, plain_or_packed
from tracegrad.data.crystals.orbital_blocks import CellOrbitals, cell_orbitals, pair_blocks
from tracegrad.data.crystals.reader import CrystalReader, StructureHeader, check_channel, checked_spin
from tracegrad.data.crystals.structure import Structure, edge_order, reordered
from tracegrad.errors import DataError
from tracegrad.hamiltonian.blocks import block_starts
from tracegrad.units import EV_PER_HARTREE_2018

_CRYSTAL, _MOLECULE = "rs_indices.out", "overlap-matrix.out"
_SUFFIXES = {None: "", "up": "_up", "down": "_dn"}
_BOX = 40.0  # angstrom; more than twice the reach of the orbitals of two atoms
_STRONG = 1e-2  # sum of the squares of the overlaps of two bonded atoms, at least
_MOVING = {"relax_geometry", "md_run"}


class AimsReader(CrystalReader):
    """Folders of FHI-aims calculations.

    Args:
        path: the folder of a calculation, or a folder of these.
        spin: which of the two Hamiltonians of a collinear calculation is read, "up" or "down".
    """

    label = "folders of FHI-aims"
    collinear = True

    def __init__(self, path: str | Path, spin: str | None = None):
        super().__init__(path)
        self.spin = checked_spin(spin)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return any(plain_or_packed(path / name).is_file() for name in (_CRYSTAL, _MOLECULE))

    def read(self, name: str, matrices: Sequence[str]) -> Structure:
        folder = self.places[name]
        numbers, positions, lattice = self._geometry(folder)
        orbitals = _orbitals(folder, numbers)
        paths = dict(zip(("overlap", "hamiltonian"), self.files(name)[-2:], strict=True))
        if lattice is None:
            lattice = (_BOX + 2 * float(np.ptp(positions, axis=0).max())) * np.eye(3)
            edges, blocks = _molecule(orbitals, {matrix: paths[matrix] for matrix in matrices})
        else:
            # The overlap tells how atoms were moved into the central cell.
            needed = {matrix: paths[matrix] for matrix in {"overlap", *matrices}}
            edges, blocks = _crystal(orbitals, plain_or_packed(folder / _CRYSTAL), needed)
            cells = unwrapped_cells(orbitals, edges, blocks["overlap"], positions, lattice, str(folder))
            edges = np.concatenate([cells, edges[:, 3:]], axis=1)
            order = edge_order(edges)
            starts = block_starts(edges[:, 3:].T, numbers, orbitals.basis)
            edges = edges[order]
            blocks = {matrix: reordered(blocks[matrix], starts, order) for matrix in matrices}
        if "hamiltonian" in blocks:
            blocks["hamiltonian"] = EV_PER_HARTREE_2018 * blocks["hamiltonian"]
        return Structure(
            name=name,
            numbers=numbers,
            positions=positions,
            lattice=lattice,
            shells=orbitals.shells,
            spinful=False,
            fermi_level=None,
            edges=edges,
            **blocks,
        )

    def header(self, name: str) -> StructureHeader:
        folder = self.places[name]
        numbers, _, _ = self._geometry(folder)
        self.files(name)
        return StructureHeader(numbers, _orbitals(folder, numbers).shells, False, None)

    def files(self, name: str, matrix: str = "hamiltonian") -> list[Path]:
        """Geometry, orbitals, index, overlap and Hamiltonian."""
        folder = self.places[name]
        crystal = plain_or_packed(folder / _CRYSTAL).is_file()
        stem = "rs_hamiltonian" if crystal else "hamiltonian"
        of_spin = {
            spin: plain_or_packed(folder / f"{stem}{suffix}.out") for spin, suffix in _SUFFIXES.items()
        }
        polarised = of_spin["up"].is_file() or of_spin["down"].is_file()
        if polarised and of_spin[None].is_file():
            raise DataError(
                f"{folder}: has {of_spin[None].name} and a file of spin up or down; keep the files of one calculation"
            )
        check_channel(self.spin, polarised, str(folder))
        matrices = [
            plain_or_packed(folder / ("rs_overlap.out" if crystal else _MOLECULE)),
            of_spin[self.spin],
        ]
        paths = [plain_or_packed(folder / other) for other in ("geometry.in", "basis-indices.out")]
        if crystal:
            paths.append(plain_or_packed(folder / _CRYSTAL))
        return paths + (matrices if matrix == "hamiltonian" else matrices[::-1])

    def notes(self, name: str) -> list[str]:
        spin_orbit = any(words[0] == "include_spin_orbit" for words in _control(self.places[name]))
        return ["without the spin-orbit coupling of the calculation"] if spin_orbit else []

    def _geometry(
        self, folder: Path
    ) -> tuple[Int64[np.ndarray, " atoms"], Float[np.ndarray, "atoms 3"], Float[np.ndarray, "3 3"] | None]:
        """Atomic numbers, positions and lattice of a calculation that does not move its atoms."""
        for words in _control(folder):
            if words[0] in _MOVING and words[1:2] != ["none"]:
                raise DataError(
                    f"{folder / 'control.in'}: {words[0]} moves the atoms, so that the matrices are not those of "
                    "geometry.in; compute the final geometry without it"
                )
        path = plain_or_packed(folder / "geometry.in")
        numbers, positions, lattice = read_geometry(path)
        crystal = plain_or_packed(folder / _CRYSTAL).is_file()
        if crystal != (lattice is not None):
            raise DataError(
                f"{path}: has {'no ' if crystal else ''}lattice vectors, but the matrices are those of a "
                f"{'crystal' if crystal else 'molecule'}; take all files from one calculation"
            )
        return numbers, positions, lattice


def _control(folder: Path) -> list[list[str]]:
    """Words of the lines of ``control.in``, which may be missing."""
    path = plain_or_packed(folder / "control.in")
    lines = calculation_text(path).lower().splitlines() if path.is_file() else []
    return [words for line in lines if (words := line.split("#", 1)[0].split())]


def _orbitals(folder: Path, numbers: Int64[np.ndarray, " atoms"]) -> CellOrbitals:
    path = plain_or_packed(folder / "basis-indices.out")
    degrees = read_basis_indices(path, len(numbers))
    return cell_orbitals(numbers, degrees, lambda m: -1 if m > 0 and m % 2 else 1, str(path))


def _molecule(
    orbitals: CellOrbitals, paths: dict[str, Path]
) -> tuple[Int64[np.ndarray, "pairs 5"], dict[str, np.ndarray]]:
    """Edges of all pairs in one cell, and the entries of their blocks."""
    size = len(orbitals.atoms)
    rows, columns = np.indices((size, size)).reshape(2, -1)
    values = {matrix: read_triangle(path, size).ravel() for matrix, path in paths.items()}
    cells = np.zeros((1, 3), dtype=np.int64)
    return pair_blocks(orbitals, cells, np.zeros_like(rows), rows, columns, values)


def _crystal(
    orbitals: CellOrbitals, index_file: Path, paths: dict[str, Path]
) -> tuple[Int64[np.ndarray, "pairs 5"], dict[str, np.ndarray]]:
    """Edges and entries of the blocks <row in cell 0| |column in cell R>, of the atoms in the central cell."""
    index = read_sparse_index(index_file, len(orbitals.atoms))
    values = {matrix: read_values(path, index.count)[index.places] for matrix, path in paths.items()}
    # <row, R| |column, 0> is <row, 0| |column, -R>, and its mirror image is <column, 0| |row, R>.
    cells, place = np.unique(np.concatenate([-index.cells, index.cells]), axis=0, return_inverse=True)
    opposite, same = place.reshape(2, -1)
    other = index.rows != index.columns
    cell = np.concatenate([opposite[index.cell], same[index.cell][other]])
    rows = np.concatenate([index.rows, index.columns[other]])
    columns = np.concatenate([index.columns, index.rows[other]])
    both = {matrix: np.concatenate([stored, stored[other]]) for matrix, stored in values.items()}
    return pair_blocks(orbitals, cells, cell, rows, columns, both)


def unwrapped_cells(
    orbitals: CellOrbitals,
    edges: Int64[np.ndarray, "pairs 5"],
    overlap: Float[np.ndarray, " entries"],
    positions: Float[np.ndarray, "atoms 3"],
    lattice: Float[np.ndarray, "3 3"],
    where: str,
) -> Int64[np.ndarray, "pairs 3"]:
    """R of each edge between the atoms at their positions, of edges between atoms that were moved by lattice vectors.

    The vectors between two atoms in all cells, weighted with the squares of their overlaps, have their mean closer
    to zero than to other lattice vectors, because overlaps decrease with distance. This tells how the two atoms were
    moved relative to each other, without the rounding that a rule for positions at the border of a cell needs.
    The strongest overlaps decide.

    Args:
        orbitals: the orbitals of a cell.
        edges: rows [Rx, Ry, Rz, i, j].
        overlap: entries of the blocks of the edges.
        positions: where the atoms were before, angstrom.
        lattice: rows are vectors, angstrom.
        where: the calculation, in messages.

    Raises:
        DataError: overlaps of bonded atoms contradict each other.
    """
    atoms = len(positions)
    starts = block_starts(edges[:, 3:].T, orbitals.numbers, orbitals.basis)
    weights = np.add.reduceat(overlap**2, starts[:-1])
    vectors = positions[edges[:, 4]] + edges[:, :3] @ lattice - positions[edges[:, 3]]
    pairs, pair = np.unique(edges[:, 3] * atoms + edges[:, 4], return_inverse=True)
    totals = np.bincount(pair, weights)
    sums = np.stack([np.bincount(pair, weights * vectors[:, axis]) for axis in range(3)], axis=1)
    means = sums / np.maximum(totals, np.finfo(float).tiny)[:, None]
    moved = -_nearest_cells(means, lattice)
    first, second = pairs // atoms, pairs % atoms
    shifts, group = np.zeros((atoms, 3), dtype=np.int64), np.arange(atoms)
    for strongest in np.argsort(-totals, kind="stable").tolist():
        i, j = int(first[strongest]), int(second[strongest])
        if group[i] != group[j]:
            joined = group == group[j]
            shifts[joined] += shifts[i] + moved[strongest] - shifts[j]
            group[joined] = group[i]
    wrong = (totals > _STRONG) & (shifts[second] - shifts[first] != moved).any(1)
    if wrong.any():
        worst = int(np.where(wrong, totals, 0).argmax())
        raise DataError(
            f"{where}: the overlaps of atoms {first[worst] + 1} and {second[worst] + 1} contradict their positions "
            "in geometry.in; take all files from one calculation"
        )
    return edges[:, :3] + shifts[edges[:, 4]] - shifts[edges[:, 3]]


def _nearest_cells(
    vectors: Float[np.ndarray, "vectors 3"], lattice: Float[np.ndarray, "3 3"]
) -> Int64[np.ndarray, "vectors 3"]:
    """R of the lattice vector that is nearest to each vector, also of a skewed lattice."""
    rounded = np.rint(vectors @ np.linalg.inv(lattice)).astype(np.int64)
    nearest, least = rounded.copy(), np.full(len(vectors), np.inf)
    for step in product(range(-3, 4), repeat=3):
        distances = np.linalg.norm(vectors - (rounded + step) @ lattice, axis=1)
        closer = distances < least
        nearest[closer] = (rounded + step)[closer]
        least = np.minimum(least, distances)
    return nearest
