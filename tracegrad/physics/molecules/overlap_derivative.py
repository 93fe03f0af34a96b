"""Derivatives of the overlap matrix of a molecule with respect to the positions of its atoms."""

import numpy as np
from jaxtyping import Float
from pyscf import gto, lib


def overlap_derivative(molecule: gto.Mole) -> Float[np.ndarray, "atoms 3 n n"]:
    """dS/dR, 1/angstrom, in the orbital order of the molecule.

    PySCF's int1e_ipovlp is <grad mu|nu>. Moving an atom moves its orbitals: d<mu|nu>/dR = -<grad mu|nu> for its mu.
    """
    of_rows = -molecule.intor("int1e_ipovlp") / lib.param.BOHR
    slopes = np.zeros((molecule.natm, *of_rows.shape))
    for slope, (first, last) in zip(slopes, molecule.aoslice_by_atom()[:, 2:], strict=True):
        slope[:, first:last] = of_rows[:, first:last]
        slope += slope.transpose(0, 2, 1)
    return slopes


def overlap_along(molecule: gto.Mole, displacement: Float[np.ndarray, "atoms 3"]) -> Float[np.ndarray, "n n"]:
    """Derivative of S where the atoms move along a displacement, 1/angstrom times its unit."""
    starts = molecule.aoslice_by_atom()[:, 2:]
    of_orbitals = np.repeat(displacement, starts[:, 1] - starts[:, 0], axis=0)
    of_rows = -np.einsum("mx,xmn->mn", of_orbitals, molecule.intor("int1e_ipovlp")) / lib.param.BOHR
    return of_rows + of_rows.T
