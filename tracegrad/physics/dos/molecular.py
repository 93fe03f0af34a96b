"""The density of states of a molecule, with the shares of groups of orbitals in each of its levels.

    Mulliken:  m_gn = sum_{mu in g} c_mu,n (S c)_mu,n
    Loewdin:   m_gn = sum_{mu in g} (S^1/2 c)_mu,n^2

The shares of all groups add up to c^T S c = 1. Those of Mulliken may be slightly negative, those of Loewdin may not.
"""

import numpy as np
from jaxtyping import Float

from tracegrad.errors import ConfigError
from tracegrad.physics.dos.density import DensityOfStates, broadened
from tracegrad.physics.dos.orbital_groups import OrbitalGroups
from tracegrad.physics.molecules.density import overlap_power
from tracegrad.physics.molecules.levels import MolecularLevels
from tracegrad.units import MEV

SHARES = ("mulliken", "loewdin")
_EV = MEV["hartree"] / MEV["eV"]
_PAIRED = 2  # states of an orbital, one for each spin


def level_shares(
    coefficients: Float[np.ndarray, "n levels"],
    overlap: Float[np.ndarray, "n n"],
    groups: OrbitalGroups,
    kind: str = "mulliken",
) -> Float[np.ndarray, "groups levels"]:
    """Share of each group in each level.

    Args:
        coefficients: a column for each level, C^T S C = 1.
        overlap: in the same orbital order.
        groups: of the orbitals.
        kind: "mulliken" or "loewdin".

    Raises:
        ConfigError: another kind.
    """
    if kind == "mulliken":
        return groups.sums(coefficients * (overlap @ coefficients))
    if kind == "loewdin":
        return groups.sums((overlap_power(overlap, 0.5) @ coefficients) ** 2)
    raise ConfigError(f"dos_shares={kind} is not one of {', '.join(SHARES)}; give one of them")


def molecular_density(
    levels: MolecularLevels,
    shares: Float[np.ndarray, "groups n"],
    groups: OrbitalGroups,
    energies: Float[np.ndarray, " energies"],
    width: float,
) -> DensityOfStates:
    """Density of states of a molecule, two electrons a level.

    Args:
        levels: of the molecule.
        shares: of each group in each level.
        groups: of the orbitals.
        energies: ascending, eV.
        width: standard deviation of the Gaussians, eV.
    """
    weights = np.full(len(levels.energies), float(_PAIRED))
    return broadened(levels.energies * _EV, weights, shares, groups, energies, width)


def group_electrons(
    levels: MolecularLevels, shares: Float[np.ndarray, "groups n"]
) -> Float[np.ndarray, " groups"]:
    """Electrons of each group, which add up to those of the molecule."""
    return _PAIRED * shares[:, : levels.occupied].sum(1)
