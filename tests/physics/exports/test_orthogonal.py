from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import eigh, sqrtm

from tests.physics.exports.conftest import structure
from tracegrad.data.crystals.bloch_matrix import BlochMatrix
from tracegrad.errors import ConfigError, DataError
from tracegrad.physics.exports import orthogonal
from tracegrad.physics.exports.orthogonal import orthogonalised


def matrices_at(crystal, k) -> list[np.ndarray]:
    return [BlochMatrix(crystal, name).at(np.array(k)).toarray() for name in ("hamiltonian", "overlap")]


def test_the_sum_over_the_mesh(crystal):
    found = orthogonalised(crystal, [5, 3, 1])
    points = [(i / 5, j / 3, 0.0) for i in range(5) for j in range(3)]
    in_mesh = []
    for k in points:
        h, s = matrices_at(crystal, k)
        root = np.linalg.inv(sqrtm(s))
        in_mesh.append(root @ h @ root)
    for cell, matrix in zip(found.cells, found.matrices, strict=True):
        phases = [np.exp(-2j * np.pi * np.dot(k, cell)) for k in points]
        literal = sum(p * m for p, m in zip(phases, in_mesh, strict=True)) / len(points)
        np.testing.assert_allclose(matrix, literal, rtol=0, atol=1e-10)
    assert found.smallest_overlap == pytest.approx(
        min(np.linalg.eigvalsh(matrices_at(crystal, k)[1])[0] for k in points), abs=1e-12
    )


def test_bands_are_exact_on_the_mesh_and_the_error_between_is_said(crystal):
    found = orthogonalised(crystal, [5, 5, 1])
    for k in ([0.2, 0.6, 0.0], [0.4, 0.4, 0.0]):
        bands = np.linalg.eigvalsh(found.at(np.array(k)))
        np.testing.assert_allclose(bands, eigh(*matrices_at(crystal, k), eigvals_only=True), atol=1e-10)
    errors = []
    for k in [((i + 0.5) / 5, (j + 0.5) / 5, 0.0) for i in range(5) for j in range(5)]:
        exact = eigh(*matrices_at(crystal, k), eigvals_only=True)
        errors.append(np.abs(np.linalg.eigvalsh(found.at(np.array(k))) - exact).max())
    assert max(errors) / 3 < found.error <= max(errors) + 1e-12


def test_the_mesh_grows_until_the_bands_are_right():
    small = orthogonalised(structure(), tolerance=1e-2)
    large = orthogonalised(structure(), tolerance=1e-7)
    assert small.error <= 1e-2
    assert large.error <= 1e-7
    assert large.mesh[0] > small.mesh[0]
    assert large.mesh[2] == small.mesh[2] == 1


def test_a_basis_that_is_nearly_dependent_is_said(monkeypatch):
    monkeypatch.setattr(orthogonal, "MOST_NUMBERS", 20_000)
    with pytest.raises(DataError, match=r"wrong by up to .* nearly linearly dependent .* mesh=\[\d+,\d+,1\]"):
        orthogonalised(structure(), tolerance=1e-12)
    with pytest.raises(
        DataError, match=r"18 orbitals with a mesh of \[21,21,1\] points make 142,884 numbers"
    ):
        orthogonalised(structure(), [21, 21, 1])


@pytest.mark.parametrize("mesh", [[4, 5, 1], [5, 5], [0, 5, 1]])
def test_meshes_that_are_refused(mesh):
    with pytest.raises(ConfigError, match="give three odd numbers"):
        orthogonalised(structure(), mesh)


def test_an_overlap_that_is_missing_or_damaged():
    with pytest.raises(DataError, match="the overlap has not been read"):
        orthogonalised(replace(structure(), overlap=None))
    with pytest.raises(DataError, match=r"MoS2: k = .*: S is not positive definite"):
        orthogonalised(structure(overlap=1.0))
