"""PySCF's order of the orbitals of a molecule, from the order of a file in def2-SVP."""

from functools import cache, lru_cache

import numpy as np
from jaxtyping import Int64

from tracegrad.hamiltonian.basis import DEF2_SVP, OrbitalBasis


def pyscf_order(numbers: Int64[np.ndarray, " atoms"], convention: str) -> Int64[np.ndarray, " n"]:
    """Position in the file of each orbital of PySCF's order: H in PySCF's order is ``H[order][:, order]``.

    The array is cached and shared between calls: do not write into it.

    Args:
        numbers: atomic numbers that def2-SVP has.
        convention: order of the orbitals in the file, a key of `tracegrad.hamiltonian.basis.CONVENTIONS`.
    """
    return _order(tuple(numbers.tolist()), convention)


@lru_cache(maxsize=1024)
def _order(numbers: tuple[int, ...], convention: str) -> Int64[np.ndarray, " n"]:
    of_element = _orders_of_elements(convention)
    pieces = [of_element[z] for z in numbers]
    sizes = [len(piece) for piece in pieces]
    return np.concatenate(pieces) + np.repeat(np.cumsum(sizes) - sizes, sizes)


@cache
def _orders_of_elements(convention: str) -> dict[int, Int64[np.ndarray, " orbitals"]]:
    """The order for one atom of each element."""
    ours, theirs = (OrbitalBasis(DEF2_SVP, name).slots for name in ("pyscf", convention))
    orders = {}
    for z in DEF2_SVP:
        present = ours[z] >= 0
        orders[z] = np.empty(present.sum(), dtype=np.int64)
        orders[z][ours[z, present]] = theirs[z, present]
    return orders
