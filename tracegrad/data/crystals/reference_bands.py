"""Eigenvalues that a DFT code printed beside its matrices."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class ReferenceBands:
    """Eigenvalues at some k, with which those of the converted matrices are compared.

    Args:
        source: the file, in messages.
        k: in units of the reciprocal lattice vectors.
        energies: eV, ascending at each k: the lowest bands, those of a collinear calculation for spin up, then down.
        absolute: on the energy scale of the matrices; if not, they may differ by one constant.
    """

    source: str
    k: Float[np.ndarray, "points 3"]
    energies: Float[np.ndarray, "spins points bands"]
    absolute: bool
