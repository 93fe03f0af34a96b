"""Densities of states from the states of a k mesh or a molecule, broadened by Gaussians."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import erfc

from tracegrad.errors import ConfigError
from tracegrad.physics.dos.mesh_states import MeshStates
from tracegrad.physics.dos.orbital_groups import OrbitalGroups

STEPS_PER_WIDTH = 5  # of the table of energies
_MOST_ENERGIES = 200_001
_FAR = 6.0  # widths beyond which a Gaussian is 0
_CHUNK = 4_000_000  # numbers in memory at a time


@dataclass(frozen=True, eq=False)
class DensityOfStates:
    """A density of states per cell or molecule, both spins together.

    Args:
        energies: eV, the scale of the files.
        total: states/eV.
        below: number of states below each energy.
        groups: names of the groups.
        projected: share of each group, states/eV; they add up to the total.
        error: standard error of the total (states/eV) where it is estimated with random vectors; otherwise None.
        width: standard deviation of the broadening, eV.
        method: "diagonal" or "polynomial".
    """

    energies: Float[np.ndarray, " energies"]
    total: Float[np.ndarray, " energies"]
    below: Float[np.ndarray, " energies"]
    groups: tuple[str, ...]
    projected: Float[np.ndarray, "groups energies"]
    error: Float[np.ndarray, " energies"] | None
    width: float
    method: str


def energy_grid(low: float, high: float, width: float) -> Float[np.ndarray, " energies"]:
    """Energies (eV) from low to high, five for each width.

    Raises:
        ConfigError: the width is not above 0, or so small that the table would be too long.
    """
    if not 0 < width < np.inf:
        raise ConfigError(f"dos_width={width} is not above 0; give a width in eV")
    count = int(np.ceil((high - low) / width * STEPS_PER_WIDTH)) + 1
    if count > _MOST_ENERGIES:
        raise ConfigError(f"dos_width={width} eV makes {count:,} energies in the window; give a larger width")
    return np.linspace(low, high, count)


def density_of_states(
    states: MeshStates,
    groups: OrbitalGroups,
    energies: Float[np.ndarray, " energies"],
    width: float,
    *,
    spins: int,
) -> DensityOfStates:
    """Density of states, each state a Gaussian.

    Args:
        states: on a mesh.
        groups: of the shares of the states.
        energies: ascending, eV.
        width: standard deviation of the Gaussians, eV.
        spins: states that a band stands for: 2 without spin, 1 with spin-orbit coupling.
    """
    weights = spins * np.repeat(states.mesh.weights, states.energies.shape[1])
    shares = states.shares.transpose(1, 0, 2).reshape(len(groups.names), -1)
    return broadened(states.energies.ravel(), weights, shares, groups, energies, width)


def broadened(
    levels: Float[np.ndarray, " states"],
    weights: Float[np.ndarray, " states"],
    shares: Float[np.ndarray, "groups states"],
    groups: OrbitalGroups,
    energies: Float[np.ndarray, " energies"],
    width: float,
) -> DensityOfStates:
    """Density of states, each level a Gaussian.

    Args:
        levels: eV.
        weights: number of states that each level stands for.
        shares: of each group in each level.
        groups, energies, width: as of `density_of_states`.
    """
    below = np.full(len(energies), weights[levels < energies[0] - _FAR * width].sum())
    projected = np.zeros((len(groups.names), len(energies)))
    near = np.flatnonzero(np.abs(levels - energies.mean()) <= np.ptp(energies) / 2 + _FAR * width)
    for part in np.array_split(near, max(1, len(near) * len(energies) // _CHUNK)):
        x = (energies - levels[part, None]) / width
        below += weights[part] @ (erfc(-x / 2**0.5) / 2)
        gaussians = np.exp(-(x**2) / 2) / (width * (2 * np.pi) ** 0.5)
        projected += (shares[:, part] * weights[part]) @ gaussians
    return DensityOfStates(
        energies, projected.sum(0), below, groups.names, projected, None, width, "diagonal"
    )
