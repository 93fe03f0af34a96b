"""Structures that are rotated copies of each other, and whether their Hamiltonians turn as they should."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.linalg import orthogonal_procrustes
from scipy.spatial.transform import Rotation

from tracegrad.data.crystals.angular_momentum import orbital_rotation
from tracegrad.data.crystals.structure import Structure, species_entries

_SAME_PLACE = 1e-3  # angstrom
_TURNED = 1e-2  # smallest largest element of Q - 1 of a copy; a smaller turn shows nothing


@dataclass(frozen=True)
class CopyError:
    """How a Hamiltonian deviates from that of a rotated copy.

    Args:
        largest: largest deviation of an element, eV.
        share: norm of the deviations of pairs of atoms in units of the norm of their blocks.
    """

    largest: float
    share: float


def rotation_between(first: Structure, second: Structure) -> Float[np.ndarray, "3 3"] | None:
    """The orthogonal matrix Q that turns the vectors of the first structure into those of the second, or None.

    Only copies with the same order of atoms and the same lattice vectors are found, and none that is not turned.
    """
    if first.shells != second.shells or first.spinful != second.spinful:
        return None
    if not np.array_equal(first.numbers, second.numbers) or not np.array_equal(first.edges, second.edges):
        return None
    before, after = (
        np.concatenate([one.lattice, one.positions[1:] - one.positions[0]]) for one in (first, second)
    )
    turned = orthogonal_procrustes(before, after)[0].T
    if np.abs(before @ turned.T - after).max() > _SAME_PLACE or np.abs(turned - np.eye(3)).max() < _TURNED:
        return None
    return turned


def copy_error(first: Structure, second: Structure, turned: Float[np.ndarray, "3 3"]) -> CopyError:
    """Compare the H of the second structure with the H of the first one, turned.

    Args:
        first, second: with Hamiltonians and the same edges.
        turned: see `rotation_between`.
    """
    assert first.hamiltonian is not None
    assert second.hamiltonian is not None
    rotations = {z: orbital_rotation(shells, turned) for z, shells in first.shells.items()}
    if first.spinful:
        spin = _spin_rotation(turned)
        rotations = {z: np.kron(spin, rotation) for z, rotation in rotations.items()}
    largest = squares = size = 0.0
    for chosen, where in species_entries(first.edges, first.numbers, first.basis):
        left, right = (rotations[z] for z in first.numbers[first.edges[chosen[0], 3:]].tolist())
        expected = left @ first.hamiltonian[where] @ right.conj().T
        deviation = np.abs(second.hamiltonian[where] - expected)
        largest = max(largest, float(deviation.max()))
        pairs = (first.edges[chosen, 3] != first.edges[chosen, 4]) | (first.edges[chosen, :3] != 0).any(1)
        squares += float((deviation[pairs] ** 2).sum())
        size += float((np.abs(expected[pairs]) ** 2).sum())
    return CopyError(largest, float(np.sqrt(squares / size)) if size else 0.0)


def _spin_rotation(turned: Float[np.ndarray, "3 3"]) -> np.ndarray:
    """The matrix of SU(2) of a rotation; a reflection does not change the spin beyond the rotation in it."""
    proper = turned * np.sign(np.linalg.det(turned))
    x, y, z, w = Rotation.from_matrix(proper).as_quat()
    return np.array([[w - 1j * z, -y - 1j * x], [y - 1j * x, w + 1j * z]])
