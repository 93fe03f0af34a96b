"""Rotations of real orbitals, from the angular momentum: independent of the networks and their conventions."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from jaxtyping import Float
from scipy.linalg import block_diag, expm
from scipy.spatial.transform import Rotation

from tracegrad.hamiltonian.basis import CONVENTIONS


@cache
def rotation_generators(degree: int) -> Float[np.ndarray, "3 m m"]:
    """Generators G of rotations about x, y and z of the standard real harmonics m = -l .. l.

    The coefficients of a function turn with exp(angle * n.G) if the function turns by an angle about n. G = -i L in
    the real basis, from the well-known L of the complex one.
    """
    m = np.arange(-degree, degree + 1)
    raising = np.diag(np.sqrt(degree * (degree + 1) - m[:-1] * (m[:-1] + 1.0)), -1).astype(complex)
    momenta = [(raising + raising.T) / 2, (raising - raising.T) / 2j, np.diag(m).astype(complex)]
    # Rows: the real functions in terms of the complex ones with the Condon-Shortley phase.
    real = np.zeros((2 * degree + 1, 2 * degree + 1), dtype=complex)
    real[degree, degree] = 1
    for n in range(1, degree + 1):
        phase = (-1) ** n
        real[degree + n, [degree + n, degree - n]] = phase / np.sqrt(2), 1 / np.sqrt(2)
        real[degree - n, [degree + n, degree - n]] = -1j * phase / np.sqrt(2), 1j / np.sqrt(2)
    return np.stack([(-1j * real.conj() @ one @ real.T).real for one in momenta])


def orbital_generators(shells: Sequence[int]) -> Float[np.ndarray, "3 orbitals orbitals"]:
    """`rotation_generators` of all orbitals of an atom in the order of `Structure`.

    Args:
        shells: degrees of its shells.
    """
    ordered = []
    for degree in shells:
        order = np.argsort(CONVENTIONS["openmx"].get(degree, range(2 * degree + 1)))
        ordered.append(rotation_generators(degree)[:, order][:, :, order])
    return np.stack([block_diag(*(one[axis] for one in ordered)) for axis in range(3)])


def orbital_rotation(
    shells: Sequence[int], turned: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, "orbitals orbitals"]:
    """How the orbitals of an atom change with a rotation, with or without a reflection, in the order of `Structure`.

    Args:
        shells: degrees of its shells.
        turned: orthogonal matrix that is applied to vectors.
    """
    improper = np.linalg.det(turned) < 0
    vector = Rotation.from_matrix(-turned if improper else turned).as_rotvec()
    parity = np.concatenate([np.full(2 * degree + 1, (-1.0) ** (degree * improper)) for degree in shells])
    return parity[:, None] * expm(np.einsum("a,aij->ij", vector, orbital_generators(shells)))
