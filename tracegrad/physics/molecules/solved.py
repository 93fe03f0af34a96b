"""Solves reference molecules: overlap, orbital energies and orbitals of a labelled geometry."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.linalg import LinAlgError, eigh

from tracegrad.data.molecules.database import Molecule
from tracegrad.errors import DataError
from tracegrad.physics.molecules.dft import build_molecule
from tracegrad.physics.molecules.molecule_cache import Entries, Stored


@dataclass(frozen=True, eq=False)
class SolvedMolecule:
    """All solutions of H C = S C eps of a molecule; hartree, PySCF's orbital order.

    The triangles hold element (i, j) with i >= j at index i (i + 1) / 2 + j.
    """

    occupied: int
    energies: Float[np.ndarray, " n"]  # ascending
    orbitals: Float[np.ndarray, "n n"]  # columns, C^T S C = 1
    overlap: Float[np.ndarray, " packed"]  # lower triangle of S
    hamiltonian: Float[np.ndarray, " packed"]  # lower triangle of H

    @property
    def size(self) -> int:
        """Number of orbitals."""
        return len(self.energies)


def solve_molecule(molecule: Molecule, where: str) -> SolvedMolecule:
    """Solve H C = S C eps of a neutral closed-shell molecule; ``where`` names it in error messages.

    Raises:
        DataError: an odd number of electrons, or an overlap that is not positive definite.
    """
    electrons = int(molecule.numbers.sum())
    if electrons % 2:
        raise DataError(
            f"{where}: {electrons} electrons cannot be all paired, so there are no occupied orbitals to compare; "
            "leave this row out, or set callbacks.orbitals=null"
        )
    overlap = build_molecule(molecule.numbers, molecule.positions).intor("int1e_ovlp")
    try:
        energies, orbitals = eigh(molecule.hamiltonian, overlap, driver="gvd", check_finite=False)
    except LinAlgError as error:
        raise DataError(
            f"{where}: the overlap of its basis functions is not positive definite ({error}); are the positions "
            "in the right unit?"
        ) from error
    lower = np.tril_indices(len(overlap))
    return SolvedMolecule(
        electrons // 2, energies, np.ascontiguousarray(orbitals), overlap[lower], molecule.hamiltonian[lower]
    )


def _encode(molecule: SolvedMolecule) -> Stored:
    arrays = (molecule.energies, molecule.orbitals, molecule.overlap, molecule.hamiltonian)
    return Stored(molecule.size, molecule.occupied, arrays)


def _decode(n: int, occupied: int, numbers: Float[np.ndarray, " numbers"]) -> SolvedMolecule:
    energies, orbitals, overlap, hamiltonian = np.split(numbers, np.cumsum([n, n * n, n * (n + 1) // 2]))
    return SolvedMolecule(occupied, energies, orbitals.reshape(n, n), overlap, hamiltonian)


def _length(n: int) -> int:
    return 2 * n * (n + 1)


# For n orbitals: energies [n], orbitals [n, n], lower triangle of S [n (n + 1) / 2], lower triangle of H. This is
# 0.47 MB for 18 atoms (171 orbitals), 0.7 MB for 25 atoms; about 6 GB for the 9,335 test molecules of the size split
# and 4.7 GB for the 10,100 of the dynamic database.
SOLVED = Entries(
    "orbitals", ".tracegrad-orbitals", "callbacks.orbitals.cache", solve_molecule, _encode, _decode, _length
)
