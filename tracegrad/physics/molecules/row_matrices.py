"""Matrices of the molecules of a database, which graphs carry beside H; workers can use them, too."""

import numpy as np
from jaxtyping import Float

from tracegrad.data.molecules.database import Molecule
from tracegrad.physics.molecules.cached_molecules import CachedMolecules
from tracegrad.physics.molecules.dft import build_molecule


def molecular_overlap(molecule: Molecule) -> Float[np.ndarray, "n n"]:
    """The overlap of a molecule in def2-SVP and PySCF's order (milliseconds)."""
    return build_molecule(molecule.numbers, molecule.positions).intor_symmetric("int1e_ovlp")


class SymmetricMatrices:
    """Symmetric matrices whose lower triangles are entries of a cache, such as H0."""

    def __init__(self, triangles: CachedMolecules[np.ndarray]):
        self.triangles = triangles

    def __call__(self, molecule: Molecule) -> Float[np.ndarray, "n n"]:
        return unpacked(self.triangles(molecule.row))


def unpacked(triangle: Float[np.ndarray, " packed"]) -> Float[np.ndarray, "n n"]:
    """The symmetric matrix with this lower triangle, whose element (i, j <= i) is at i (i + 1) / 2 + j."""
    n = int(np.sqrt(2 * len(triangle)))
    matrix = np.empty((n, n))
    rows, columns = np.tril_indices(n)
    matrix[rows, columns] = matrix[columns, rows] = triangle
    return matrix
