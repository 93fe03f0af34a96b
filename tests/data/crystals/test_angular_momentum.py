"""Rotations of real orbitals against the functions themselves."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from tracegrad.data.crystals.angular_momentum import orbital_rotation, rotation_generators


def functions(r: np.ndarray) -> dict[int, np.ndarray]:
    """Real functions of each degree, in the order of OpenMX, at points r of the unit sphere."""
    x, y, z = r.T
    root = np.sqrt(3)
    return {
        0: np.ones((1, len(x))),
        1: np.stack([x, y, z]),
        2: np.stack([(3 * z**2 - 1) / 2, root / 2 * (x**2 - y**2), root * x * y, root * x * z, root * y * z]),
        3: np.stack(
            [
                z * (5 * z**2 - 3) / 2,
                np.sqrt(3 / 8) * x * (5 * z**2 - 1),
                np.sqrt(3 / 8) * y * (5 * z**2 - 1),
                np.sqrt(15) / 2 * z * (x**2 - y**2),
                np.sqrt(15) * x * y * z,
                np.sqrt(5 / 8) * x * (x**2 - 3 * y**2),
                np.sqrt(5 / 8) * y * (3 * x**2 - y**2),
            ]
        ),
    }


@pytest.mark.parametrize("improper", [False, True])
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_functions_turn(degree: int, improper: bool) -> None:
    """The function that has turned is, at a point, the former one at the point turned back."""
    random = np.random.default_rng(degree)
    turned = Rotation.random(rng=random).as_matrix() * (-1 if improper else 1)
    r = random.normal(size=(40, 3))
    r /= np.linalg.norm(r, axis=1)[:, None]
    matrix = orbital_rotation([degree], turned)
    # Column m of the matrix: coefficients of function m after the rotation.
    np.testing.assert_allclose(matrix.T @ functions(r)[degree], functions(r @ turned)[degree], atol=1e-12)


def test_generators_of_several_shells() -> None:
    whole = orbital_rotation([0, 1, 2], Rotation.from_euler("xyz", [0.3, 0.2, -0.7]).as_matrix())
    np.testing.assert_allclose(whole @ whole.T, np.eye(9), atol=1e-13)
    assert np.abs(whole[1:4, 4:]).max() == 0
    for degree in range(5):
        g = rotation_generators(degree)
        np.testing.assert_allclose(g[0] @ g[1] - g[1] @ g[0], g[2], atol=1e-12)
