"""Orbitals and orbital energies of one molecule from its Hamiltonian and overlap, with HOMO, LUMO and gap."""

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from jaxtyping import Float

from tracegrad.errors import DataError


@dataclass(frozen=True, eq=False)
class MolecularLevels:
    """Orbital energies and orbitals of a closed-shell molecule.

    Args:
        energies: hartree, ascending.
        coefficients: column k belongs to energy k; C^T S C = 1.
        occupied: number of doubly occupied orbitals, the lowest ones.
    """

    energies: Float[np.ndarray, " n"]
    coefficients: Float[np.ndarray, "n n"]
    occupied: int

    @property
    def homo(self) -> float:
        """Energy of the highest occupied orbital, hartree."""
        return float(self.energies[self.occupied - 1])

    @property
    def lumo(self) -> float:
        """Energy of the lowest unoccupied orbital, hartree."""
        return float(self.energies[self.occupied])

    @property
    def gap(self) -> float:
        """Energy of the LUMO minus that of the HOMO, hartree."""
        return self.lumo - self.homo

    def label(self, k: int) -> str:
        """Name of orbital k (from 0) relative to the gap: ..., HOMO-1, HOMO, LUMO, LUMO+1, ..."""
        below, above = self.occupied - 1 - k, k - self.occupied
        name, distance = (f"HOMO-{below}", below) if below >= 0 else (f"LUMO+{above}", above)
        return name if distance else name[:4]


def molecular_levels(
    hamiltonian: Float[np.ndarray, "n n"], overlap: Float[np.ndarray, "n n"], electrons: int
) -> MolecularLevels:
    """The solutions of H C = S C eps.

    Args:
        hamiltonian: hartree; its symmetric part is used.
        overlap: in the same orbital order.
        electrons: an even number that leaves at least one orbital empty.

    Raises:
        DataError: the electrons cannot be paired like this, H is not finite, or the overlap is not positive definite.
    """
    if electrons % 2 or not 0 < electrons < 2 * len(hamiltonian):
        raise DataError(
            f"{electrons} electrons cannot be paired in {len(hamiltonian)} orbitals; a neutral closed shell is needed"
        )
    if not np.isfinite(hamiltonian).all():
        raise DataError("the Hamiltonian has entries that are not finite; did the training diverge?")
    try:
        energies, coefficients = scipy.linalg.eigh((hamiltonian + hamiltonian.T) / 2, overlap)
    except np.linalg.LinAlgError as error:
        raise DataError(f"H C = S C eps cannot be solved ({error}); are atoms too close?") from error
    return MolecularLevels(energies, coefficients, electrons // 2)
