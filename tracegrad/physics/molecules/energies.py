"""Total energy, forces and other properties of a molecule from its Hamiltonian, with few or no steps of an SCF.

The density D of the Hamiltonian's lowest orbitals enters the energy functional E[D] of RKS. E is stationary at the
converged density, so its error is quadratic in that of D. Forces are those of PySCF's analytic gradient with D,

    F = - sum D dh/dR - (derivatives of the Coulomb, exchange and integration terms, with D fixed)   Hellmann-Feynman
        + sum W dS/dR,    W = D F[D] D / 2                                                            Pulay

They follow E exactly where D is converged; elsewhere their error is linear in that of D, because D does not follow
the atoms as this W supposes.
"""

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from jaxtyping import Float
from pyscf import dft, gto

from tracegrad.physics.molecules.density import density, overlap_power
from tracegrad.physics.molecules.dft import GRID_LEVEL, XC_CODES


@dataclass(frozen=True, eq=False)
class EnergyOfDensity:
    """Energy and forces of a density.

    Args:
        energy: hartree.
        fock: F[D], hartree.
        density: D, in PySCF's orbital order.
        forces: hartree / bohr; None if they were not computed.
    """

    energy: float
    fock: Float[np.ndarray, "n n"]
    density: Float[np.ndarray, "n n"]
    forces: Float[np.ndarray, "atoms 3"] | None


class EnergyFunctional:
    """E[D] of a molecule: RKS in def2-SVP on the integration grid of QH9.

    Args:
        molecule: neutral, closed-shell, in def2-SVP.
        functional: one of `tracegrad.physics.molecules.dft.XC_CODES`.
    """

    def __init__(self, molecule: gto.Mole, functional: str):
        self.molecule = molecule
        self._field = dft.RKS(molecule, xc=XC_CODES[functional])
        self._field.grids.level = GRID_LEVEL
        self._field.chkfile = None
        self.overlap = molecule.intor_symmetric("int1e_ovlp")

    def __call__(
        self, hamiltonian: Float[np.ndarray, "n n"], *, steps: int = 0, forces: bool = False
    ) -> EnergyOfDensity:
        """Energy of the density of a Hamiltonian.

        Args:
            hamiltonian: hartree, in PySCF's orbital order.
            steps: cycles of an SCF (with DIIS) from this density that come first; it ends earlier if it converges.
            forces: compute them, too.
        """
        matrix = density(hamiltonian, self.overlap, self.molecule.nelectron)
        if steps:
            self._field.max_cycle = steps
            self._field.kernel(dm0=matrix)
            matrix = np.asarray(self._field.make_rdm1())
        potential = self._field.get_veff(self.molecule, matrix)
        energy = float(self._field.energy_tot(dm=matrix, vhf=potential))
        fock = np.asarray(self._field.get_fock(dm=matrix, vhf=potential))
        return EnergyOfDensity(energy, fock, matrix, self._forces(matrix, fock) if forces else None)

    def _forces(
        self, matrix: Float[np.ndarray, "n n"], fock: Float[np.ndarray, "n n"]
    ) -> Float[np.ndarray, "atoms 3"]:
        """Occupied orbitals of D that diagonalise F[D] among themselves give PySCF's gradient the W above."""
        count = self.molecule.nelectron // 2
        # Occupied orbitals of D: S D S C = S C n has the occupations n = 2 and 0.
        s = self.overlap
        _, occupied = scipy.linalg.eigh(s @ matrix @ s, s, subset_by_index=[len(s) - count, len(s) - 1])
        energies, mixing = np.linalg.eigh(occupied.T @ fock @ occupied)
        gradient = self._field.nuc_grad_method()
        gradient.verbose = 0
        return -gradient.kernel(energies, occupied @ mixing, np.full(count, 2.0))


def scf_residual(hamiltonian: Float[np.ndarray, "n n"], found: EnergyOfDensity) -> float:
    """Mean |F[D] - H| over all matrix elements, hartree: how far the prediction is from its Fock matrix.

    It is 0 for a converged Hamiltonian, and needs no label.
    """
    return float(np.abs(found.fock - hamiltonian).mean())


def commutator_norm(overlap: Float[np.ndarray, "n n"], found: EnergyOfDensity) -> float:
    """Root mean square of S^(-1/2) (F D S - S D F) S^(-1/2), hartree, with F = F[D]; 0 for a converged density."""
    fds = found.fock @ found.density @ overlap
    back = overlap_power(overlap, -0.5)
    return float(np.sqrt(np.mean((back @ (fds - fds.T) @ back) ** 2)))


def mulliken_charges(
    molecule: gto.Mole, density: Float[np.ndarray, "n n"], overlap: Float[np.ndarray, "n n"]
) -> Float[np.ndarray, " atoms"]:
    """Z - sum over the orbitals of an atom of (D S)_ii, in elementary charges."""
    return _charges(molecule, np.einsum("ij,ji->i", density, overlap))


def loewdin_charges(
    molecule: gto.Mole, density: Float[np.ndarray, "n n"], overlap: Float[np.ndarray, "n n"]
) -> Float[np.ndarray, " atoms"]:
    """Z - sum over the orbitals of an atom of (S^1/2 D S^1/2)_ii, in elementary charges."""
    root = overlap_power(overlap, 0.5)
    return _charges(molecule, np.einsum("ij,jk,ki->i", root, density, root, optimize=True))


def dipole(molecule: gto.Mole, density: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "3"]:
    """Dipole moment of nuclei and electrons, elementary charge x bohr."""
    electrons = np.einsum("xij,ji->x", molecule.intor_symmetric("int1e_r", comp=3), density)
    return molecule.atom_charges() @ molecule.atom_coords() - electrons


def _charges(molecule: gto.Mole, of_orbitals: Float[np.ndarray, " n"]) -> Float[np.ndarray, " atoms"]:
    slices = molecule.aoslice_by_atom()[:, 2:]
    return molecule.atom_charges() - np.array([of_orbitals[start:end].sum() for start, end in slices])
