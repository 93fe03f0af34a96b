"""The density matrix of the occupied orbitals of a Hamiltonian, from which an SCF can start."""

import numpy as np
import scipy.linalg
from jaxtyping import Float

from tracegrad.errors import DataError


def density(
    hamiltonian: Float[np.ndarray, "n n"], overlap: Float[np.ndarray, "n n"], electrons: int
) -> Float[np.ndarray, "n n"]:
    """Closed-shell density matrix D = 2 C_occ C_occ^T of the lowest orbitals of H C = S C eps, in float64.

    Args:
        hamiltonian: hartree; its symmetric part is used.
        overlap: in the same orbital order.
        electrons: an even number, at most two for each orbital.

    Raises:
        DataError: the electrons cannot be paired in these orbitals, entries are not finite, the shapes differ, or the
            overlap is not positive definite.
    """
    h, s = (np.asarray(matrix, dtype=np.float64) for matrix in (hamiltonian, overlap))
    if h.ndim != 2 or h.shape != h.T.shape or h.shape != s.shape:
        raise DataError(
            f"the Hamiltonian has shape {h.shape} and the overlap {s.shape}; both must be square and of one size"
        )
    if electrons % 2 or not 0 < electrons <= 2 * len(h):
        raise DataError(
            f"{electrons} electrons do not fill pairs of {len(h)} orbitals; a neutral closed shell is needed"
        )
    if not (np.isfinite(h).all() and np.isfinite(s).all()):
        raise DataError("the Hamiltonian or the overlap has entries that are not finite")
    try:
        occupied = scipy.linalg.eigh((h + h.T) / 2, s, subset_by_index=[0, electrons // 2 - 1])[1]
    except np.linalg.LinAlgError as error:
        raise DataError(
            f"H C = S C eps cannot be solved ({error}); is the overlap that of the basis?"
        ) from error
    return 2 * occupied @ occupied.T


def overlap_power(overlap: Float[np.ndarray, "n n"], power: float) -> Float[np.ndarray, "n n"]:
    """S^power of a positive definite overlap: 1/2 and -1/2 lead to Loewdin's orthogonal orbitals and back."""
    values, vectors = scipy.linalg.eigh(overlap)
    return (vectors * values**power) @ vectors.T
