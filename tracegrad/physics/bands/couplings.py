"""Couplings of bands by displacements of atoms: electron-phonon matrix elements of phonons at the zone centre."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Complex, Float

from tracegrad.data.crystals.bloch_matrix import BlochMatrix
from tracegrad.data.crystals.structure import (
    HERMITICITY_TOLERANCE,
    Structure,
    block_key,
    hermiticity_error,
)
from tracegrad.errors import DataError
from tracegrad.physics.bands.dense import OVERLAP_THRESHOLD, all_states
from tracegrad.physics.first_order import first_order_couplings, first_order_slopes


@dataclass(frozen=True, eq=False)
class KPointCouplings:
    """All bands at one k and their couplings by a displacement u of the atoms.

    Args:
        energies: eV, ascending.
        couplings: <m k|dH/du - E_n dS/du|n k> in eV per unit of u, see `tracegrad.physics.first_order`. The phases of
            the states are arbitrary, and so is the choice among degenerate ones: compare absolute values, summed
            over degenerate states.
        slopes: dE/du.
    """

    energies: Float[np.ndarray, " bands"]
    couplings: Complex[np.ndarray, "bands bands"]
    slopes: Float[np.ndarray, " bands"]


class BandCouplings:
    """Couplings of the bands of a crystal by a displacement of its atoms, the same in all cells.

    Args:
        structure: with H and S.
        derivative: the same structure with dH/du and dS/du in place of H and S.

    Raises:
        DataError: a matrix is missing, the structures have other edges, or a derivative is not hermitian.
    """

    def __init__(self, structure: Structure, derivative: Structure) -> None:
        if not np.array_equal(structure.edges, derivative.edges):
            raise DataError(
                f"{structure.name}: the derivatives have other edges than H; give them for the same ones"
            )
        self.name = structure.name
        matrices = ("hamiltonian", "overlap")
        self._matrices = [BlochMatrix(one, matrix) for one in (structure, derivative) for matrix in matrices]
        for matrix in matrices:
            largest, worst = hermiticity_error(derivative, matrix)
            if largest > HERMITICITY_TOLERANCE * max(1.0, float(np.abs(getattr(derivative, matrix)).max())):
                raise DataError(
                    f"{self.name}: the derivative of the {matrix} is not hermitian in block "
                    f"{block_key(derivative.edges[worst])} (by {largest:.1e}); set model.backbone.hermitian = True "
                    "before H and its derivative are predicted"
                )

    def __call__(self, k: Float[np.ndarray, " 3"]) -> KPointCouplings:
        """The couplings at k (units of the reciprocal lattice vectors).

        Raises:
            DataError: S(k) is not positive definite.
        """
        hamiltonian, overlap, *slopes = (matrix.at(k).toarray() for matrix in self._matrices)
        where = f"{self.name}: k = {np.round(k, 6).tolist()}"
        states = all_states(hamiltonian, overlap, where, OVERLAP_THRESHOLD).states
        couplings = first_order_couplings(states.energies, states.vectors, *slopes)
        return KPointCouplings(states.energies, couplings, first_order_slopes(states.energies, couplings))
