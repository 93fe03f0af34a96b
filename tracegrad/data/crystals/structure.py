"""Crystal structures with the blocks of their Hamiltonian and overlap, and checks that they are valid.

A block is H(R)_ij = <i in cell 0| H |j in cell R>, in eV, with shape (n_i, n_j), where n_i is the number of orbitals
of atom i. With spin-orbit coupling it is complex with shape (2 n_i, 2 n_j), [[uu, ud], [du, dd]]. Overlaps are real
and without spin. The orbitals of a shell are in the order of OpenMX.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64, Shaped

from tracegrad.elements import COVALENT_RADII, SYMBOLS
from tracegrad.errors import DataError
from tracegrad.hamiltonian.basis import CONVENTIONS, OrbitalBasis
from tracegrad.hamiltonian.blocks import block_starts
from tracegrad.hamiltonian.graph import reversed_edges
from tracegrad.hamiltonian.neighbours import edge_lengths, on_site_edges, pair_ranges
from tracegrad.units import ANGSTROM_PER_BOHR, EV_PER_HARTREE

HERMITICITY_TOLERANCE = 1e-5  # eV; real data have 1e-8
SMALLEST_DISTANCE = 0.3  # angstrom
SMALLEST_SHARE = 0.55  # smallest distance over the sum of two covalent radii; bonds have at least 0.67 (U-O)
# Angstrom; how much longer a listed pair may be than a missing one. Codes that drop blocks with small elements give
# less, a transposed lattice gives more.
PAIR_TOLERANCE = 1.0
SOURCES = "positions, lattice and the R of the blocks"
_RELATIVISTIC = 1.5  # factor by which relativity lowers the 1s level of the heaviest atoms
_ENERGY_ZERO = 50.0  # eV; the zero of energy differs between codes
MATRICES = ("hamiltonian", "overlap", "h0")


def basis_of_matrix(matrix: str, shells: Mapping[int, Sequence[int]], spinful: bool) -> OrbitalBasis:
    """Orbital basis of one of `MATRICES` of a structure with these shells; that of the overlap has no spin."""
    return OrbitalBasis.openmx(shells, spinful and matrix != "overlap")


@dataclass(frozen=True, eq=False)
class Structure:
    """A crystal with the blocks of its matrices.

    Args:
        name: name in messages and splits.
        numbers: atomic numbers.
        positions: angstrom.
        lattice: rows are lattice vectors, angstrom.
        shells: ascending degrees of the shells of each element (by atomic number).
        spinful: the Hamiltonian has spin blocks.
        fermi_level: eV.
        edges: rows [Rx, Ry, Rz, i, j], atoms counted from 0, in the order of `edge_order`.
        hamiltonian: entries of all blocks in the order of the edges, each flattened row by row; eV; complex128 if
            spinful, else float64.
        overlap: the same for the overlap; float64 without spin.
        h0: the same for the H0 that a network may correct (`tracegrad.hamiltonian.h0`), like ``hamiltonian``.
    """

    name: str
    numbers: Int64[np.ndarray, " atoms"]
    positions: Float[np.ndarray, "atoms 3"]
    lattice: Float[np.ndarray, "3 3"]
    shells: dict[int, tuple[int, ...]]
    spinful: bool
    fermi_level: float | None
    edges: Int64[np.ndarray, "pairs 5"]
    hamiltonian: Shaped[np.ndarray, " entries"] | None = None
    overlap: Float[np.ndarray, " overlaps"] | None = None
    h0: Shaped[np.ndarray, " entries"] | None = None

    @cached_property
    def basis(self) -> OrbitalBasis:
        """Orbital basis of the Hamiltonian."""
        return OrbitalBasis.openmx(self.shells, self.spinful)

    def basis_of(self, matrix: str) -> OrbitalBasis:
        """Orbital basis of one of `MATRICES`."""
        return basis_of_matrix(matrix, self.shells, self.spinful)

    def blocks(self, matrix: str) -> list[Shaped[np.ndarray, "rows columns"]]:
        """Blocks of one of `MATRICES` in the order of the edges."""
        entries = getattr(self, matrix)
        if entries is None:
            raise DataError(f"{self.name}: the {matrix} has not been read")
        basis = self.basis_of(matrix)
        shapes = basis.sizes[self.numbers[self.edges[:, 3:]]]
        bounds = block_starts(self.edges[:, 3:].T, self.numbers, basis)[1:-1]
        return [block.reshape(shape) for block, shape in zip(np.split(entries, bounds), shapes, strict=True)]


def edge_order(edges: Int64[np.ndarray, "pairs 5"]) -> Int64[np.ndarray, " pairs"]:
    """Permutation that sorts edges by i, with the on-site edge of i first, then by j, then by R."""
    rx, ry, rz, i, j = edges.T
    return np.lexsort((rz, ry, rx, j, ~on_site_edges(edges), i))


def reordered(
    entries: Shaped[np.ndarray, " entries"],
    starts: Int64[np.ndarray, " bounds"],
    order: Int64[np.ndarray, " pairs"],
) -> Shaped[np.ndarray, " entries"]:
    """Entries with the blocks in another order.

    Args:
        starts: `block_starts` of the blocks.
        order: positions of the blocks in the new order.
    """
    lengths = np.diff(starts)[order]
    shifts = starts[order] - (np.cumsum(lengths) - lengths)
    return entries[np.repeat(shifts, lengths) + np.arange(len(entries))]


def species_entries(
    edges: Int64[np.ndarray, "pairs 5"], numbers: Int64[np.ndarray, " atoms"], basis: OrbitalBasis
) -> Iterator[tuple[Int64[np.ndarray, " chosen"], Int64[np.ndarray, "chosen rows columns"]]]:
    """For each pair of species: its edges, and the positions of the entries of their blocks."""
    starts = block_starts(edges[:, 3:].T, numbers, basis)
    species = numbers[edges[:, 3:]]
    for pair in np.unique(species, axis=0):
        chosen = np.flatnonzero((species == pair).all(1))
        rows, columns = basis.sizes[pair]
        inside = np.arange(rows * columns).reshape(rows, columns)
        yield chosen, starts[chosen][:, None, None] + inside


def standard_order(
    edges: Int64[np.ndarray, "pairs 5"],
    entries: Shaped[np.ndarray, " entries"],
    numbers: Int64[np.ndarray, " atoms"],
    basis: OrbitalBasis,
    order: Mapping[int, tuple[int, ...]] = CONVENTIONS["openmx"],
) -> tuple[Int64[np.ndarray, "pairs 5"], Shaped[np.ndarray, " entries"]]:
    """Edges and entries of a file in the order of `Structure`.

    Args:
        edges: edges in any order.
        entries: entries of their blocks, in the order of the edges.
        order: order of the orbitals of a shell in the file, as in `tracegrad.hamiltonian.basis.CONVENTIONS`; {} is
            m = -l .. l.
    """
    starts = block_starts(edges[:, 3:].T, numbers, basis)
    if order != CONVENTIONS["openmx"]:
        positions = {z: _positions_of_openmx(basis, z, order) for z in basis.elements}
        converted = np.empty_like(entries)
        for chosen, where in species_entries(edges, numbers, basis):
            dst, src = numbers[edges[chosen[0], 3:]].tolist()
            converted[where] = entries[where][:, positions[dst][:, None], positions[src]]
        entries = converted
    sorting = edge_order(edges)
    return edges[sorting], reordered(entries, starts, sorting)


def _positions_of_openmx(
    basis: OrbitalBasis, number: int, order: Mapping[int, tuple[int, ...]]
) -> Int64[np.ndarray, " rows"]:
    """For each orbital of an atom in the order of OpenMX, its position in the file; see `standard_order`."""
    positions: list[int] = []
    for degree in basis.shells[number]:
        whole = range(2 * degree + 1)
        in_file, in_openmx = order.get(degree, whole), CONVENTIONS["openmx"].get(degree, whole)
        # Both list the positions of m = -l .. l; the inverse of the second one tells m of each orbital of OpenMX.
        positions += [len(positions) + in_file[m] for m in np.argsort(in_openmx)]
    return np.concatenate([np.array(positions) + s * len(positions) for s in range(basis.spins)])


def hermiticity_error(structure: Structure, matrix: str = "hamiltonian") -> tuple[float, int]:
    """Largest |H(R)_ij - (H(-R)_ji)^dagger| over all elements (eV for H), and the position of its edge."""
    edges, entries = structure.edges, getattr(structure, matrix)
    reverse = reversed_edges(edges[:, :3], edges[:, 3:].T)
    basis = structure.basis_of(matrix)
    starts = block_starts(edges[:, 3:].T, structure.numbers, basis)
    errors = np.zeros(len(edges))
    for chosen, where in species_entries(edges, structure.numbers, basis):
        _, rows, columns = where.shape
        mirrored = np.arange(rows * columns).reshape(columns, rows).T
        partner = entries[starts[reverse[chosen]][:, None, None] + mirrored].conj()
        errors[chosen] = np.abs(entries[where] - partner).max((1, 2))
    worst = int(errors.argmax())
    return float(errors[worst]), worst


def check_structure(structure: Structure, where: str, *, sources: str = SOURCES, pairs: bool = True) -> None:
    """Check that a structure is valid.

    Elements and geometry must be possible; the edges must include both directions and all on-site ones, and agree
    with the geometry; the matrices must be finite, hermitian and, as far as this can be checked, in eV.

    Args:
        where: its source in messages.
        sources: source of positions, lattice and edges in messages.
        pairs: compare the edges with the geometry; False if this process has done so before.

    Raises:
        DataError: the structure is not valid.
    """
    _check_cell(structure, where)
    edges = structure.edges
    check_edges(edges, len(structure.numbers), where)
    if pairs:
        _check_pairs(structure, where, sources)
    _check_distances(structure, where)
    for matrix in MATRICES:
        entries = getattr(structure, matrix)
        if entries is None:
            continue
        starts = block_starts(edges[:, 3:].T, structure.numbers, structure.basis_of(matrix))
        if len(entries) != starts[-1]:
            raise DataError(
                f"{where}: the {matrix} has {len(entries)} entries, but the blocks of the basis "
                f"{structure.basis_of(matrix).name} have {starts[-1]}; the data are damaged"
            )
        bad = np.flatnonzero(~np.isfinite(entries))
        if len(bad):
            edge = edges[np.searchsorted(starts, bad[0], side="right") - 1]
            raise DataError(
                f"{where}: NaN or infinite numbers in the {matrix}, first in block {block_key(edge)}; "
                "leave this structure out or recompute it"
            )
        largest, worst = hermiticity_error(structure, matrix)
        if largest > HERMITICITY_TOLERANCE:
            rx, ry, rz, i, j = edges[worst].tolist()
            unit = "" if matrix == "overlap" else " eV"
            raise DataError(
                f"{where}: the {matrix} is not hermitian: block {block_key(edges[worst])} and the dagger of "
                f"{block_key([-rx, -ry, -rz, j, i])} differ by {largest:.1e}{unit} "
                f"(at most {HERMITICITY_TOLERANCE:.0e}); leave this structure out or recompute it"
            )
    if structure.hamiltonian is not None:
        _check_levels(structure, where)


def check_edges(edges: Int64[np.ndarray, "pairs 5"], atoms: int, where: str) -> None:
    """Raise `DataError` (``where`` names the source) unless edges include both directions and all on-site ones."""
    if not len(edges):
        raise DataError(f"{where}: no blocks; a matrix has at least the on-site ones")
    outside = edges[(edges[:, 3:].min(1) < 0) | (edges[:, 3:].max(1) >= atoms)]
    if len(outside):
        raise DataError(
            f"{where}: the edge {outside[0].tolist()} (atoms counted from 0) does not fit {atoms} atoms"
        )
    try:
        reversed_edges(edges[:, :3], edges[:, 3:].T)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    missing = np.setdiff1d(np.arange(atoms), edges[on_site_edges(edges), 3])
    if len(missing):
        raise DataError(
            f"{where}: the on-site block {block_key([0, 0, 0, *missing[[0, 0]].tolist()])} is missing; add it"
        )


def block_key(edge: Sequence[int] | np.ndarray) -> str:
    """Key of the block of an edge in files and messages, where atoms are counted from 1."""
    rx, ry, rz, i, j = (int(value) for value in edge)
    return f"[{rx}, {ry}, {rz}, {i + 1}, {j + 1}]"


def wrong_block(
    path: Path, key: str, content: str, shape: tuple[int, ...], dtype: np.dtype, basis: OrbitalBasis
) -> DataError:
    """The error for a block in a file that does not agree with the basis; ``content`` describes the block."""
    return DataError(
        f"{path}: block {key} is {content}, but {dtype} of shape {shape} is needed for the shells "
        f"{basis.name}; correct the shells, or whether the structure is spinful (info.json), or the file"
    )


def check_geometry(structure: Structure, where: str) -> None:
    """Raise `DataError` (``where`` names the source) unless elements, positions and lattice are possible."""
    _check_cell(structure, where)
    _check_distances(structure, where)


def _check_cell(structure: Structure, where: str) -> None:
    numbers, positions, lattice = structure.numbers, structure.positions, structure.lattice
    if not len(numbers) or numbers.min() < 1 or numbers.max() >= len(SYMBOLS):
        raise DataError(f"{where}: {numbers.tolist()} are not all atomic numbers; correct the elements")
    for what, values in (("positions", positions), ("lattice", lattice)):
        if not np.isfinite(values).all():
            raise DataError(f"{where}: NaN or infinite numbers in the {what}; correct them")
    volume = abs(np.linalg.det(lattice))
    if not volume > 1e-6 * np.prod(np.linalg.norm(lattice, axis=1)):
        raise DataError(
            f"{where}: the lattice vectors {lattice.tolist()} span no volume; give three independent ones"
        )


def _check_distances(structure: Structure, where: str) -> None:
    numbers, positions, lattice = structure.numbers, structure.positions, structure.lattice
    inverse, radii = np.linalg.inv(lattice), COVALENT_RADII[numbers]
    for i in range(1, len(numbers)):
        fractional = (positions[:i] - positions[i]) @ inverse
        distances = np.linalg.norm((fractional - np.rint(fractional)) @ lattice, axis=1)
        least = np.maximum(SMALLEST_DISTANCE, SMALLEST_SHARE * (radii[:i] + radii[i]))
        j = int((distances - least).argmin())
        if distances[j] < least[j]:
            raise DataError(
                f"{where}: atoms {j + 1} and {i + 1} (counted from 1) are {distances[j]:.2g} angstrom apart "
                f"(at least {least[j]:.2g}); correct the positions or their unit"
            )


def on_site_levels(structure: Structure) -> list[Float[np.ndarray, " orbitals"]]:
    """Diagonal elements of the on-site blocks of H in the order of the atoms, eV."""
    assert structure.hamiltonian is not None
    edges, levels = structure.edges, []
    starts = block_starts(edges[:, 3:].T, structure.numbers, structure.basis)
    on_site = np.flatnonzero(on_site_edges(edges))
    for edge in on_site[np.argsort(edges[on_site, 3])]:
        size = int(structure.basis.sizes[structure.numbers[edges[edge, 3]]])
        levels.append(structure.hamiltonian[starts[edge] : starts[edge + 1] : size + 1].real)
    return levels


def _check_pairs(structure: Structure, where: str, sources: str) -> None:
    """Raise `DataError` if a pair has a block and a much closer pair of the same elements has none."""
    numbers, positions, lattice = structure.numbers, structure.positions, structure.lattice
    ranges = pair_ranges(numbers, positions, lattice, structure.edges)
    strong = _strong_edges(structure)
    lengths = edge_lengths(positions, lattice, strong)
    for pair, one in ranges.items():
        of_pair = (np.sort(numbers[strong[:, 3:]], axis=1) == pair).all(1)
        farthest = int(np.where(of_pair, lengths, -1.0).argmax()) if of_pair.any() else -1
        longest = (float(lengths[farthest]), tuple(strong[farthest].tolist())) if farthest >= 0 else (0.0, ())
        ranges[pair] = replace(one, longest=longest[0], farthest=longest[1])
    elements, worst = max(ranges.items(), key=lambda item: item[1].longest - item[1].absent)
    if worst.longest - worst.absent <= PAIR_TOLERANCE:
        return
    to_angstrom, cells, pairs = ANGSTROM_PER_BOHR, structure.edges[:, :3], structure.edges[:, 3:]
    others = {
        "the lattice transposed": {"lattice": lattice.T},
        "the positions taken for bohr": {"positions": positions * to_angstrom},
        "the lattice taken for bohr": {"lattice": lattice * to_angstrom},
        "the positions taken for fractions of the lattice vectors": {"positions": positions @ lattice},
        "the sign of R changed": {"edges": np.concatenate([-cells, pairs], axis=1)},
    }
    geometry = {"positions": positions, "lattice": lattice, "edges": structure.edges}
    fitting = []
    for what, other in others.items():
        changed = pair_ranges(numbers, **(geometry | other)).values()
        if all(one.longest - one.absent <= 1e-3 for one in changed):
            fitting.append(what)
    if not fitting:
        _check_distances(structure, where)  # its message, if any, is more specific
    hint = (
        f"with {' or '.join(fitting)} they agree"
        if fitting
        else "look for another unit, a transposed lattice, or atoms moved by a lattice vector without their R"
    )
    names = "-".join(SYMBOLS[z] for z in elements)
    nearer = f" ({block_key(worst.nearest)})" if worst.nearest else ""
    raise DataError(
        f"{where}: {sources} contradict each other: there is a block {block_key(worst.farthest)} of {names} "
        f"{worst.longest:.2f} angstrom apart, but none of a nearer pair{nearer}, {worst.absent:.2f} angstrom apart; "
        f"{hint}"
    )


def _strong_edges(structure: Structure) -> Int64[np.ndarray, "strong 5"]:
    """The pairs that interact strongly enough to be judged by their distance alone.

    Codes with non-local projectors couple far atoms where a third one lies between them, weakly, and not others that
    are nearer.
    """
    matrix, least = ("overlap", 1e-5) if structure.overlap is not None else ("hamiltonian", 1e-2)
    entries = getattr(structure, matrix)
    starts = block_starts(structure.edges[:, 3:].T, structure.numbers, structure.basis_of(matrix))
    if entries is None or len(entries) != starts[-1]:
        return structure.edges
    return structure.edges[np.maximum.reduceat(np.abs(entries), starts[:-1]) > least]


def _check_levels(structure: Structure, where: str) -> None:
    """Raise `DataError` if an on-site level is deeper than the 1s level of the bare nucleus."""
    for atom, levels in enumerate(on_site_levels(structure)):
        z = int(structure.numbers[atom])
        deepest = -(EV_PER_HARTREE / 2 * z**2 * _RELATIVISTIC + _ENERGY_ZERO)
        if levels.min() < deepest:
            raise DataError(
                f"{where}: the lowest on-site level of atom {atom + 1} ({SYMBOLS[z]}) is "
                f"{levels.min():.4g} eV, deeper than {deepest:.4g} eV, which its nucleus alone could bind; correct "
                "the unit of the Hamiltonian (eV is needed)"
            )
