"""A survey of a database: everything is counted, and some structures, drawn by a seed, are read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from tracegrad.data.crystal_files.database import CrystalDatabase
from tracegrad.data.crystals.spins import BOTH
from tracegrad.data.crystals.structure import Structure, species_entries
from tracegrad.data.molecules.database import Molecule, MoleculeDatabase
from tracegrad.data.survey.reach import Reach
from tracegrad.errors import ConfigError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.neighbours import edge_lengths

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Survey:
    """What is known of a database.

    Args:
        basis: orbital basis of all structures.
        atoms: number of atoms of each structure; both spins of a calculation are two structures.
        rows: positions of the structures that were read, ascending.
        edges: number of blocks of each of these.
        numbers: number of matrix elements in these blocks; a complex one counts once.
        reach: of their Hamiltonians.
    """

    basis: OrbitalBasis
    atoms: Int64[np.ndarray, " structures"]
    rows: Int64[np.ndarray, " read"]
    edges: Int64[np.ndarray, " read"]
    numbers: Int64[np.ndarray, " read"]
    reach: Reach

    @property
    def padded(self) -> Int64[np.ndarray, " read"]:
        """Number of real numbers of the labels of each structure that was read, in the union layout of a network."""
        return self.edges * self.basis.dim**2 * self.basis.spins


def chosen_rows(
    atoms: Int64[np.ndarray, " structures"], samples: int, seed: int
) -> Int64[np.ndarray, " read"]:
    """Positions of structures that stand for all: the smallest, the largest, and others by chance, ascending.

    Args:
        atoms: number of atoms of each structure.
        samples: how many structures; all if there are fewer.

    Raises:
        ConfigError: fewer than 2 samples, or a seed below 0.
    """
    if samples < 2 or seed < 0:
        raise ConfigError(
            f"samples={samples}, seed={seed}: at least 2 samples and a seed of at least 0 are needed"
        )
    ends = {int(atoms.argmin()), int(atoms.argmax())}
    others = [row for row in np.random.default_rng(seed).permutation(len(atoms)).tolist() if row not in ends]
    return np.array(sorted([*ends, *others[: samples - len(ends)]]), dtype=np.int64)


def survey_crystals(
    database: CrystalDatabase, samples: int, seed: int = 0, on_progress: Progress = lambda done, total: None
) -> Survey:
    """The survey of a database of crystals; see `chosen_rows` for the structures that are read.

    Raises:
        DataError: a structure is damaged, or the shells of an element differ between structures.
    """
    reach, basis = Reach(), database.basis
    if database.spin == BOTH:
        basis = OrbitalBasis.openmx(database.shells, collinear=True)

    def look(row: int) -> tuple[int, int]:
        structure = database[row]
        _add_crystal(reach, structure)
        assert structure.hamiltonian is not None
        return len(structure.edges), len(structure.hamiltonian)

    return _survey(basis, database.atom_counts, samples, seed, look, reach, on_progress)


def survey_molecules(
    database: MoleculeDatabase, samples: int, seed: int = 0, on_progress: Progress = lambda done, total: None
) -> Survey:
    """The survey of a database of molecules; a block belongs to each pair of atoms and to each atom.

    Raises:
        DataError: a row is damaged.
    """
    reach, basis = Reach(), OrbitalBasis.def2_svp(database.elements)

    def look(row: int) -> tuple[int, int]:
        molecule = database[row]
        _add_molecule(reach, molecule, basis)
        return len(molecule.numbers) ** 2, molecule.hamiltonian.size

    return _survey(basis, database.atom_counts, samples, seed, look, reach, on_progress)


def _survey(
    basis: OrbitalBasis,
    atoms: Int64[np.ndarray, " structures"],
    samples: int,
    seed: int,
    look: Callable[[int], tuple[int, int]],
    reach: Reach,
    on_progress: Progress,
) -> Survey:
    rows = chosen_rows(atoms, samples, seed)
    counts: list[Sequence[int]] = []
    for row in rows.tolist():
        counts.append(look(row))
        on_progress(len(counts), len(rows))
    edges, numbers = np.array(counts, dtype=np.int64).T
    return Survey(basis, atoms, rows, edges, numbers, reach)


def _add_crystal(reach: Reach, structure: Structure) -> None:
    edges, entries = structure.edges, structure.hamiltonian
    assert entries is not None
    largest = np.zeros(len(edges))
    for chosen, where in species_entries(edges, structure.numbers, structure.basis):
        largest[chosen] = np.abs(entries[where]).max((1, 2))
    lengths = edge_lengths(structure.positions, structure.lattice, edges)
    apart = lengths > 0
    reach.add(structure.numbers[edges[apart, 3:]], lengths[apart], largest[apart])


def _add_molecule(reach: Reach, molecule: Molecule, basis: OrbitalBasis) -> None:
    starts = np.cumsum(basis.sizes[molecule.numbers]) - basis.sizes[molecule.numbers]
    by_rows = np.maximum.reduceat(np.abs(molecule.hamiltonian), starts, axis=0)
    largest = np.maximum.reduceat(by_rows, starts, axis=1)
    first, second = np.triu_indices(len(molecule.numbers), k=1)
    distances = np.linalg.norm(molecule.positions[first] - molecule.positions[second], axis=1)
    reach.add(molecule.numbers[np.stack([first, second], axis=1)], distances, largest[first, second])
