"""First-order response of the states of H c = E S c where H and S change by dH and dS, as with moving atoms.

    g_mn = c_m^H (dH - E_n dS) c_n,    c^H S c = 1

The diagonal of g are the slopes of the energies (Hellmann-Feynman theorem in a basis that moves); among degenerate
states they are the eigenvalues of g between them. The states mix by g_mn / (E_n - E_m).
"""

import numpy as np
from jaxtyping import Float, Inexact
from scipy.linalg import eigvalsh

DEGENERATE = 1e-6  # in the unit of the energies; closer states count as degenerate


def first_order_couplings(
    energies: Float[np.ndarray, " states"],
    vectors: Inexact[np.ndarray, "size states"],
    h_slope: Inexact[np.ndarray, "size size"],
    s_slope: Inexact[np.ndarray, "size size"],
) -> Inexact[np.ndarray, "states states"]:
    """g of some states; hermitian between degenerate ones.

    Args:
        energies: in the unit of H.
        vectors: columns c.
        h_slope, s_slope: dH and dS, hermitian.
    """
    left = vectors.conj().T
    return left @ (h_slope @ vectors) - (left @ (s_slope @ vectors)) * energies


def first_order_slopes(
    energies: Float[np.ndarray, " states"], couplings: Inexact[np.ndarray, "states states"]
) -> Float[np.ndarray, " states"]:
    """First-order changes of ascending energies; of a degenerate group the eigenvalues of g, ascending."""
    slopes = couplings.diagonal().real.copy()
    bounds = np.flatnonzero(np.diff(energies) > DEGENERATE) + 1
    for group in np.split(np.arange(len(slopes)), bounds):
        if len(group) > 1:
            slopes[group] = eigvalsh(couplings[np.ix_(group, group)])
    return slopes
