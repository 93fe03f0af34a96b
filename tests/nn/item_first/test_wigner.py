import pytest
import torch

from tests.molecules import random_rotation, wigner_d
from tracegrad.nn.item_first.wigner import WignerMatrices
from tracegrad.ops.spherical_harmonics import spherical_harmonics


@pytest.mark.parametrize("lmax", [0, 1, 7])
def test_matrices_are_those_of_e3nn(lmax):
    rotations = torch.stack([random_rotation(seed) for seed in range(4)])
    matrices = WignerMatrices(lmax)(rotations)
    assert len(matrices) == lmax + 1
    for degree, of_degree in enumerate(matrices):
        for matrix, rotation in zip(of_degree, rotations, strict=True):
            torch.testing.assert_close(matrix, wigner_d(degree, rotation), rtol=0, atol=1e-13)


def test_they_turn_the_harmonics():
    vectors, rotation = torch.randn(5, 3, dtype=torch.float64), random_rotation(1)
    turned, harmonics = (spherical_harmonics(v, 7) for v in (vectors @ rotation.T, vectors))
    matrix = torch.block_diag(*[d[0] for d in WignerMatrices(7)(rotation[None])])
    torch.testing.assert_close(turned, matrix @ harmonics, rtol=0, atol=1e-12)


def test_no_rotation_is_the_unit_matrix():
    for degree, matrix in enumerate(WignerMatrices(7)(torch.eye(3, dtype=torch.float64)[None])):
        torch.testing.assert_close(
            matrix[0], torch.eye(2 * degree + 1, dtype=torch.float64), rtol=0, atol=1e-14
        )
