"""Meshes of k points over the whole Brillouin zone.

k is in units of the reciprocal lattice vectors. The points are (i1/n1, i2/n2, i3/n3), so that they include 0. If the
energies at k and -k are equal, one point stands for both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from tracegrad.data.crystals.structure import Structure, species_entries
from tracegrad.errors import ConfigError

SPACING = 0.04  # 1/angstrom, between neighbouring points of the default mesh
TIME_REVERSAL = 1e-3  # eV; larger deviations of H(R) from time reversal symmetry are taken for magnetism
# Multiples of 6 include the corners and the edge centres of hexagonal and of square zones.
_MULTIPLE = 6
MOST_POINTS = 10_000_000


@dataclass(frozen=True, eq=False)
class KMesh:
    """Points of a mesh.

    Args:
        counts: n1, n2, n3; 1 along vacuum.
        points: one of each pair k, -k, or all.
        weights: share of the zone for which each point stands; their sum is 1.
    """

    counts: tuple[int, int, int]
    points: Float[np.ndarray, "k 3"]
    weights: Float[np.ndarray, " k"]


def k_mesh(
    lattice: Float[np.ndarray, "3 3"],
    periodic: Bool[np.ndarray, " 3"],
    counts: Any = None,
    *,
    time_reversal: bool = True,
    spacing: float = SPACING,
) -> KMesh:
    """The mesh of a crystal.

    Args:
        lattice: rows are lattice vectors, angstrom.
        periodic: see `tracegrad.physics.bands.kpath.periodic_axes`.
        counts: points along each reciprocal lattice vector; None: neighbours are at most ``spacing`` apart.
        time_reversal: the energies at k and -k are equal.
        spacing: 1/angstrom.

    Raises:
        ConfigError: the counts are not three whole numbers above 0, or there are several points along vacuum.
    """
    chosen = _default_counts(lattice, periodic, spacing) if counts is None else _checked(counts, periodic)
    axes = [np.arange(count) for count in chosen]
    steps = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    weights = np.full(len(steps), 1 / len(steps))
    if time_reversal:
        opposite = np.ravel_multi_index(tuple((-steps % chosen).T), chosen)
        own = np.arange(len(steps))
        kept = own <= opposite
        steps, weights = steps[kept], (weights * (1 + (own != opposite)))[kept]
    points = steps / np.array(chosen, dtype=np.float64)
    return KMesh(chosen, points, weights)


def has_time_reversal(structure: Structure) -> bool:
    """Whether the bands at k and -k are equal.

    If H(R) is real, as without spin or with collinear spin, they are. With spin-orbit coupling they are if H(R) has
    time reversal symmetry, that is uu = dd* and ud = -du*; a magnetic structure has not.
    """
    if not structure.spinful:
        return True
    assert structure.hamiltonian is not None
    if not structure.hamiltonian.imag.any():
        return True
    largest = 0.0
    for _, where in species_entries(structure.edges, structure.numbers, structure.basis):
        blocks = structure.hamiltonian[where]
        _, rows, columns = blocks.shape
        up, down = blocks[:, : rows // 2], blocks[:, rows // 2 :]
        half = columns // 2
        for difference in (
            up[..., :half] - down[..., half:].conj(),
            up[..., half:] + down[..., :half].conj(),
        ):
            largest = max(largest, float(np.abs(difference).max()))
    return largest < TIME_REVERSAL


def _default_counts(
    lattice: Float[np.ndarray, "3 3"], periodic: Bool[np.ndarray, " 3"], spacing: float
) -> tuple[int, int, int]:
    """Counts along axes that are long enough for several points are multiples of 6."""
    reciprocal = 2 * np.pi * np.linalg.pinv(lattice * periodic[:, None]).T
    needed = np.ceil(np.linalg.norm(reciprocal, axis=1) / spacing)
    a, b, c = (int(n if n <= 2 else _MULTIPLE * np.ceil(n / _MULTIPLE)) for n in np.maximum(needed, 1))
    return a, b, c


def _checked(counts: Any, periodic: Bool[np.ndarray, " 3"]) -> tuple[int, int, int]:
    good = not isinstance(counts, str) and isinstance(counts, Sequence) and len(counts) == 3
    if not good or any(type(n) is not int or n < 1 for n in counts):
        raise ConfigError(f"k_mesh={counts} is not understood; give three whole numbers, such as [12,12,1]")
    for axis, count, is_periodic in zip("abc", counts, periodic, strict=True):
        if count > 1 and not is_periodic:
            raise ConfigError(
                f"k_mesh={list(counts)}: no block connects cells along {axis}, where there is vacuum; give 1 there"
            )
    if np.prod(np.array(counts, dtype=float)) > MOST_POINTS:
        raise ConfigError(f"k_mesh={list(counts)} has more than {MOST_POINTS:,} points; give fewer")
    a, b, c = counts
    return a, b, c
