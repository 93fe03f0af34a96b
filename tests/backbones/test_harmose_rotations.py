import math

import pytest
import torch
from scipy.spatial.transform import Rotation

from tracegrad.backbones.harmose_rotations import (
    BOUNDS,
    STARTS,
    RandomRotations,
    of_angles,
    truncated_normal,
)
from tracegrad.errors import ConfigError
from tracegrad.numerics.rotations import of_quaternions


def drawn(kind: str, batches: list[int], seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    rotations = RandomRotations(kind).double()
    return torch.cat([rotations(graphs) for graphs in batches])


@pytest.mark.parametrize("kind", ["weak", "strong", "uniform"])
def test_they_are_rotations(kind):
    rotations = drawn(kind, [3, 1, 5])
    unit = torch.eye(3, dtype=torch.float64).expand(9, 3, 3)
    torch.testing.assert_close(rotations @ rotations.mT, unit, rtol=0, atol=1e-14)
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(9).double(), rtol=0, atol=1e-14)
    assert (rotations[0] - rotations[1]).abs().max() > 1e-3


def test_matrices_are_those_of_scipy():
    angles, quaternions = torch.randn(6, 3).double(), torch.randn(6, 4).double()
    expected = Rotation.from_euler("xyz", angles.numpy()).as_matrix()
    torch.testing.assert_close(of_angles(angles), torch.from_numpy(expected), rtol=0, atol=1e-14)
    expected = Rotation.from_quat(quaternions[:, [1, 2, 3, 0]].numpy()).as_matrix()
    torch.testing.assert_close(of_quaternions(quaternions), torch.from_numpy(expected), rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", BOUNDS)
def test_the_mean_runs_over_the_graphs_of_all_batches(kind):
    """Against the literal recursion, one graph at a time."""
    torch.manual_seed(3)
    rotations, batches, bound = RandomRotations(kind).double(), [2, 1, 4], BOUNDS[kind]
    actual = torch.cat([rotations(graphs) for graphs in batches])
    torch.manual_seed(3)
    b = torch.zeros(3, dtype=torch.float64)
    for at, uniform in enumerate(torch.cat([torch.rand(n, 3, dtype=torch.float64) for n in batches])):
        b = 0.7 * b + 0.3 * truncated_normal(uniform, bound)
        expected = Rotation.from_euler("xyz", (math.pi * b).numpy()).as_matrix()
        torch.testing.assert_close(actual[at], torch.from_numpy(expected), rtol=0, atol=1e-14)
    torch.testing.assert_close(rotations.mean, b, rtol=0, atol=1e-15)


@pytest.mark.parametrize("bound", BOUNDS.values())
def test_draws_are_those_of_a_normal_distribution_that_is_cut_off(bound):
    x = truncated_normal((torch.arange(20_000).double() + 0.5) / 20_000, bound)
    assert x.abs().max() < bound
    density = 1 / math.erf(bound / math.sqrt(2))
    for part in (0.2, 0.7):
        expected = density * math.erf(part * bound / math.sqrt(2))
        assert (x.abs() < part * bound).double().mean() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(("kind", "degrees"), [("weak", 8.7), ("strong", 21.5)])
def test_angles_have_the_known_spread(kind, degrees):
    """Standard deviation of an angle of the running mean, computed from the authors' rule."""
    rotations = drawn(kind, [4000])
    about_z = torch.atan2(rotations[:, 1, 0], rotations[:, 0, 0]).rad2deg()
    assert about_z.std() == pytest.approx(degrees, rel=0.1)


def test_uniform_rotations_have_no_preferred_direction():
    rotations = drawn("uniform", [20_000])
    assert rotations.mean(0).abs().max() < 0.02
    torch.testing.assert_close(
        rotations.square().mean(0), torch.full((3, 3), 1 / 3).double(), rtol=0, atol=0.01
    )


def test_a_stored_mean_continues():
    torch.manual_seed(5)
    first, second = RandomRotations("weak").double(), RandomRotations("weak").double()
    first(3)
    second.load_state_dict(first.state_dict())
    torch.manual_seed(6)
    expected = first(2)
    torch.manual_seed(6)
    assert torch.equal(second(2), expected)


def test_other_kinds_are_refused():
    message = "model.backbone.augmentation is 'some'; choose from none, weak, strong, uniform"
    with pytest.raises(ConfigError, match=message):
        RandomRotations("some")


@pytest.mark.parametrize(
    ("kind", "start"), [*((kind, None) for kind in STARTS), ("weak", 0.25), ("uniform", 1.0)]
)
def test_they_begin_after_a_share_of_the_training(kind, start):
    rotations = RandomRotations(kind, start)
    assert rotations.active == (kind != "none")  # without a training
    begin = {"none": 2.0, "weak": 0.6, "strong": 0.7, "uniform": 0.0}[kind] if start is None else start
    for share in (0.0, 0.2, 0.25, 0.59, 0.6, 0.69, 0.7, 1.0):
        rotations.at_progress(share)
        assert rotations.active == (share >= begin)


@pytest.mark.parametrize("start", [-0.1, 1.5, True, "late"])
@pytest.mark.usefixtures("unchecked")
def test_other_starts_are_refused(start):
    with pytest.raises(
        ConfigError, match=r"augmentation_start is .*; give a share of the training from 0 to 1"
    ):
        RandomRotations("weak", start)
