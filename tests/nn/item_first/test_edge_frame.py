import math

import pytest
import torch
from e3nn.o3 import Irrep, Irreps

from tests.molecules import TO_E3NN, exact_representation, random_rotation
from tracegrad.nn.component_first.features import spherical_harmonics
from tracegrad.nn.item_first.edge_frame import EdgeFrame
from tracegrad.ops.edge_rotation.tables import is_natural

AXES = torch.cat([torch.eye(3), -torch.eye(3)]).double()
DEGREES = range(7)
IRREPS = [Irrep(degree, parity) for degree in range(5) for parity in (1, -1)]


def some_vectors() -> torch.Tensor:
    """Vectors of different lengths: random directions, the axes, close to the axes; the last one is zero."""
    near = AXES + 1e-9 * torch.randn(6, 3, dtype=torch.float64)
    lengths = torch.tensor([1e-3, 1.0, 2.5, 1e3], dtype=torch.float64)[:, None]
    return torch.cat([torch.randn(4, 3).double() * lengths, AXES, near, torch.zeros(1, 3).double()])


def natural(degree: int) -> Irrep:
    return Irrep(degree, (-1) ** degree)


def unnatural(degree: int) -> Irrep:
    return Irrep(degree, -((-1) ** degree))


@pytest.mark.parametrize("degree", DEGREES)
def test_harmonics_lie_on_the_axis(degree):
    vectors = some_vectors()
    harmonics = spherical_harmonics(vectors, degree)[degree**2 :].T[:, :, None]
    local = EdgeFrame(vectors).to_local(harmonics, degree, (-1) ** degree)
    expected = torch.zeros_like(local)
    expected[:, degree] = math.sqrt(2 * degree + 1)
    if degree > 0:
        expected[-1] = 0
    torch.testing.assert_close(local, expected, rtol=0, atol=2e-13)


@pytest.mark.parametrize("ir", IRREPS, ids=str)
def test_frames_are_orthogonal_and_have_an_inverse(ir):
    vectors = some_vectors()
    frame = EdgeFrame(vectors)
    matrix = frame.rotation(ir.l, ir.p)
    unit = torch.eye(ir.dim, dtype=torch.float64).expand_as(matrix)
    torch.testing.assert_close(matrix.mT @ matrix, unit, rtol=0, atol=1e-13)
    x = torch.randn(len(vectors), ir.dim, 3, dtype=torch.float64)
    torch.testing.assert_close(
        frame.to_global(frame.to_local(x, ir.l, ir.p), ir.l, ir.p), x, rtol=0, atol=1e-13
    )
    torch.testing.assert_close(frame.to_global(x, ir.l, ir.p), matrix @ x, rtol=0, atol=1e-13)
    assert frame.rotation(ir.l, ir.p) is matrix


@pytest.mark.parametrize("degree", DEGREES)
def test_edges_without_direction_have_the_global_frame(degree):
    matrix = EdgeFrame(torch.zeros(2, 3, dtype=torch.float64)).rotation(degree, (-1) ** degree)
    unit = torch.eye(2 * degree + 1, dtype=torch.float64).expand_as(matrix)
    torch.testing.assert_close(matrix, unit, rtol=0, atol=1e-13)


def test_frames_are_proper_rotations_and_those_of_higher_degrees_belong_to_them():
    vectors = some_vectors()
    frame = EdgeFrame(vectors)
    rotations = frame.rotation(1, -1)  # of (y, z, x)
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(len(vectors)).double())
    directions = torch.nn.functional.normalize(vectors[:-1], dim=1)
    axis = TO_E3NN @ torch.tensor([0.0, 0.0, 1.0]).double()
    torch.testing.assert_close(rotations[:-1] @ axis, directions @ TO_E3NN.T, rtol=0, atol=1e-13)
    for degree in range(2, 6):
        for rotation, matrix in zip(rotations[:6], frame.rotation(degree, (-1) ** degree)[:6], strict=True):
            expected = exact_representation(Irreps([(1, natural(degree))]), rotation)
            torch.testing.assert_close(matrix, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("degree", DEGREES)
def test_components_of_unnatural_irreps_are_exchanged(degree):
    vectors = some_vectors()
    frame = EdgeFrame(vectors)
    x = torch.randn(len(vectors), 2 * degree + 1, 2, dtype=torch.float64)
    plain = frame.to_local(x, degree, (-1) ** degree)
    exchanged = frame.to_local(x, degree, -((-1) ** degree))
    for m in range(1, degree + 1):
        torch.testing.assert_close(exchanged[:, degree + m], plain[:, degree - m], rtol=0, atol=1e-13)
        torch.testing.assert_close(exchanged[:, degree - m], -plain[:, degree + m], rtol=0, atol=1e-13)
    torch.testing.assert_close(exchanged[:, degree], plain[:, degree], rtol=0, atol=1e-13)


@pytest.mark.parametrize("ir", IRREPS, ids=str)
def test_a_rotation_of_all_vectors_rotates_frames_about_their_edges(ir):
    """Only m and -m of one |m| mix, so that their norm is invariant; improper rotations only change signs."""
    vectors = some_vectors()[:-1]
    x = torch.randn(len(vectors), ir.dim, 2, dtype=torch.float64)
    rotation = -random_rotation(3)
    matrix = exact_representation(Irreps([(1, ir)]), TO_E3NN @ rotation @ TO_E3NN.T)
    before = EdgeFrame(vectors).to_local(x, ir.l, ir.p).square()
    after = EdgeFrame(vectors @ rotation.T).to_local(matrix @ x, ir.l, ir.p).square()
    torch.testing.assert_close(after + after.flip(1), before + before.flip(1), rtol=0, atol=1e-12)


def test_float32_frames_are_as_good_as_float32():
    vectors = some_vectors()
    x = torch.randn(len(vectors), 9, 2, dtype=torch.float64)
    ir = Irrep(4, 1)
    actual = EdgeFrame(vectors.float()).to_local(x.float(), ir.l, ir.p)
    assert actual.dtype == torch.float32
    # The direction has the rounding errors of its components.
    exact = EdgeFrame(vectors.float().double()).to_local(x, ir.l, ir.p)
    torch.testing.assert_close(actual.double(), exact, rtol=0, atol=2e-5)


def test_natural_irreps_are_those_of_harmonics():
    naturals, others = [(0, 1), (1, -1), (2, 1)], [(0, -1), (1, 1), (3, 1)]
    assert all(is_natural(*ir) for ir in naturals)
    assert not any(is_natural(*ir) for ir in others)
