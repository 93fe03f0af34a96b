import math

import pytest
import torch
from e3nn import o3
from torch.nn.functional import silu

from tests.molecules import TO_E3NN, exact_representation, random_rotation
from tracegrad.errors import ConfigError
from tracegrad.nn.item_first.so3_linear import natural_irreps
from tracegrad.nn.item_first.sphere_activation import SphereActivation, sphere_grid

GRIDS = [(9, 9), (10, 11), (14, 14), (18, 18), (24, 24), (32, 32), (64, 64)]


def components(degree: int, channels: int, items: int) -> list[torch.Tensor]:
    return [torch.randn(items, 2 * k + 1, channels, dtype=torch.float64) for k in range(degree + 1)]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_to_the_grid_and_back_is_exact(grid):
    to_grid, from_grid = sphere_grid(4, *grid)
    unit = torch.eye(25, dtype=torch.float64)
    torch.testing.assert_close(from_grid @ to_grid.T, unit, rtol=0, atol=1e-13)
    # Components of unit variance have unit variance at every point.
    torch.testing.assert_close(to_grid.square().sum(0), torch.ones(math.prod(grid)).double())


def test_tables_are_those_of_e3nn():
    previous = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        there = o3.ToS2Grid(4, (18, 18), normalization="component")
        back = o3.FromS2Grid((18, 18), 4, normalization="component")
        # e3nn has y as the polar axis and z, x, y as its coordinates: its components are those of other axes.
        x = torch.randn(25)
        values = silu(there(x))
        expected = back(values)
    finally:
        torch.set_default_dtype(previous)
    to_grid, from_grid = sphere_grid(4, 18, 18)
    turn = axes_of_e3nn(to_grid, there)
    found = from_grid @ silu(to_grid.T @ (turn @ x))
    torch.testing.assert_close(found, turn @ expected, rtol=0, atol=1e-12)


def axes_of_e3nn(to_grid: torch.Tensor, there: o3.ToS2Grid) -> torch.Tensor:
    """The components here that have the values of components there at the points of the same angles."""
    values = there(torch.eye(25, dtype=torch.float64)).flatten(1)
    turn = torch.linalg.lstsq(to_grid.T, values.T).solution
    torch.testing.assert_close(to_grid.T @ turn, values.T, rtol=0, atol=1e-12)
    return turn


def breakage(grid: tuple[int, int]) -> float:
    """Root mean square over l > 0 of the difference between turning before and after, relative to the result."""
    torch.manual_seed(0)
    activation, x = SphereActivation([8] * 5, *grid), components(4, 8, 200)
    scalars = torch.randn(200, 8, dtype=torch.float64)
    rotation = TO_E3NN @ random_rotation(1) @ TO_E3NN.T
    turns = [exact_representation(natural_irreps([0] * k + [1]), rotation) for k in range(5)]
    before = activation([turn @ part for turn, part in zip(turns, x, strict=True)], scalars)
    after = [turn @ part for turn, part in zip(turns, activation(x, scalars), strict=True)]
    assert torch.equal(before[0], after[0])
    flat, reference = (torch.cat([part.flatten() for part in parts[1:]]) for parts in (before, after))
    return float((flat - reference).norm() / reference.norm())


def test_the_breakage_falls_with_the_grid():
    coarse, medium, fine, finest = (breakage((n, n)) for n in (14, 18, 32, 64))
    assert 1e-3 < coarse < 3e-2
    assert medium < coarse / 2
    assert fine < 1e-4
    assert finest < 1e-9


def test_missing_channels_are_zero():
    narrow, wide = SphereActivation([3, 2, 1], 8, 9), SphereActivation([3, 3, 3], 8, 9)
    x, scalars = components(2, 3, 4), torch.randn(4, 3, dtype=torch.float64)
    cut = [x[0], x[1][:, :, :2], x[2][:, :, :1]]
    padded = [x[0], x[1] * torch.tensor([1, 1, 0]), x[2] * torch.tensor([1, 0, 0])]
    for a, b in zip(narrow(cut, scalars), wide(padded, scalars), strict=True):
        torch.testing.assert_close(a, b[:, :, : a.shape[2]], rtol=0, atol=1e-14)
    assert narrow.scalars == 3
    torch.testing.assert_close(narrow(cut, scalars)[0][:, 0], silu(scalars))


@pytest.mark.parametrize("grid", [(8, 20), (20, 8)])
def test_grids_that_are_too_coarse_are_named(grid):
    with pytest.raises(ConfigError, match=r"grid is \[.*degree 4 needs at least 9"):
        SphereActivation([2] * 5, *grid)
