"""The orbitals of a crystal one by one, and their order and signs in other programs.

Positions count orbitals as `tracegrad.data.crystals.bloch_matrix` does: by atoms, with spin-orbit coupling first all
orbitals of the atom with spin up, then all with spin down, shells ascending in l, a shell in OpenMX's order.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from tracegrad.data.crystals.structure import Structure
from tracegrad.hamiltonian.basis import CONVENTIONS


@dataclass(frozen=True, eq=False)
class Orbitals:
    """What is known of each orbital.

    Args:
        atom: its atom, counted from 0.
        spin: 0 up, 1 down; 0 without spin.
        degree: l.
        zeta: number of its shell among those of the same l of the atom, counted from 1.
        m: component of the standard real harmonics, -l .. l.
    """

    atom: Int64[np.ndarray, " orbitals"]
    spin: Int64[np.ndarray, " orbitals"]
    degree: Int64[np.ndarray, " orbitals"]
    zeta: Int64[np.ndarray, " orbitals"]
    m: Int64[np.ndarray, " orbitals"]

    @property
    def wannier90_order(self) -> Int64[np.ndarray, " orbitals"]:
        """Positions in the order of a list of projections with spinors in Wannier90.

        Atoms, shells, m = 0, 1, -1, 2, -2, ..., and up before down of each orbital. All signs are those of the
        standard harmonics.
        """
        rank = 2 * np.abs(self.m) - (self.m > 0)
        return np.lexsort((self.spin, rank, self.zeta, self.degree, self.atom))

    @property
    def siesta_order(self) -> Int64[np.ndarray, " orbitals"]:
        """Positions in the order of SIESTA, all orbitals with spin up before those with spin down.

        Atoms, l, zeta, m = -l .. l. SIESTA's functions have the sign (-1)^m, see `siesta_signs`.
        """
        return np.lexsort((self.m, self.zeta, self.degree, self.atom, self.spin))

    @property
    def siesta_signs(self) -> Int64[np.ndarray, " orbitals"]:
        """Sign of SIESTA's function relative to the standard one, of the orbitals in the order of this table."""
        return 1 - 2 * (np.abs(self.m) % 2)


def orbitals_of(structure: Structure) -> Orbitals:
    """The orbitals of the Hamiltonian of a structure."""
    rows = []
    for atom, number in enumerate(structure.numbers.tolist()):
        shells = structure.shells[number]
        for spin in range(structure.basis.spins):
            for shell, degree in enumerate(shells):
                whole = range(2 * degree + 1)
                # The convention lists the position of each m; its inverse is m of each position.
                in_file = np.argsort(CONVENTIONS["openmx"].get(degree, tuple(whole)))
                zeta = shells[: shell + 1].count(degree)
                rows += [(atom, spin, degree, zeta, m - degree) for m in in_file.tolist()]
    return Orbitals(*np.array(rows, dtype=np.int64).T)
