import numpy as np
import pytest
from ase.neighborlist import neighbor_list

from tracegrad.errors import ConfigError
from tracegrad.physics.crystals.layers import CRYSTALS, crystal_cell
from tracegrad.physics.crystals.twist import Twist, nearest_twist, twisted_cell

SERIES = {  # of graphene
    (2, 1): (21.787, 28),
    (3, 2): (13.174, 76),
    (4, 3): (9.430, 148),
    (5, 4): (7.341, 244),
    (6, 5): (6.009, 364),
    (7, 6): (5.086, 508),
    (10, 9): (3.481, 1084),
    (3, 1): (32.204, 52),
    (1, 2): (21.787, 28),
}


@pytest.mark.parametrize("pair", SERIES)
def test_angles_and_atoms(pair):
    twist = Twist(*pair)
    angle, atoms = SERIES[pair]
    assert twist.angle == pytest.approx(angle, abs=1e-3)
    assert 4 * twist.cells == atoms
    m, n = pair
    assert 4 * (m * m + m * n + n * n) == atoms


# Table 4: smallest and largest twisted structures.
@pytest.mark.parametrize(
    ("name", "count", "least", "most"),
    [("BG", 9, 28, 1084), ("BB", 4, 28, 244), ("BT", 2, 70, 130), ("BS", 2, 70, 190)],
)
def test_published_twists(name, count, least, most):
    crystal = CRYSTALS[name]
    sizes = [len(twisted_cell(crystal, Twist(*pair), crystal.height)) for pair in crystal.twists]
    assert len(sizes) == count
    assert (min(sizes), max(sizes)) == (least, most)


def neighbours(cell, layer, cutoff):
    """Sorted distances of the nearest six neighbours of each atom within one layer."""
    atoms = cell[cell.get_array("layer") == layer]
    i, distances = neighbor_list("id", atoms, cutoff)
    return np.array([np.sort(distances[i == n])[:6] for n in range(len(atoms))])


@pytest.mark.parametrize("name", ["BG", "BB", "BT"])
@pytest.mark.parametrize("pair", [(2, 1), (1, 2), (4, 3), (3, 1), (4, 1), (5, 2)])
def test_both_layers_stay_intact(name, pair):
    crystal, twist = CRYSTALS[name], Twist(*pair)
    cell = twisted_cell(crystal, twist, crystal.height)
    assert len(cell) == 2 * twist.cells * crystal.layer.atoms_per_cell
    lengths = cell.cell.lengths()
    np.testing.assert_allclose(lengths[:2], crystal.layer.a * np.sqrt(twist.cells))
    np.testing.assert_allclose(cell.cell.angles(), [90, 90, 60])
    cutoff = 1.3 * crystal.layer.a
    ideal = neighbours(crystal_cell(crystal, crystal.height), 0, cutoff)
    for layer in (0, 1):
        found = neighbours(cell, layer, cutoff)
        np.testing.assert_allclose(found, np.tile(ideal, (twist.cells, 1)), atol=1e-9)
    assert len(neighbor_list("d", cell, 1.4)) == 0


def direction(cell, layer):
    """Angle of the bonds of the first atom, degrees, modulo 60."""
    atoms = cell[cell.get_array("layer") == layer]
    i, vectors = neighbor_list("iD", atoms, 1.5)
    x, y = vectors[i == 0][0, :2]
    return np.degrees(np.arctan2(y, x)) % 60


@pytest.mark.parametrize("pair", [(2, 1), (1, 2), (3, 1), (4, 1), (6, 5)])
def test_the_upper_layer_is_turned_by_the_angle(pair):
    twist = Twist(*pair)
    cell = twisted_cell(CRYSTALS["BG"], twist, 18.0)
    sign = -1 if pair[0] > pair[1] else 1
    turned = (direction(cell, 1) - direction(cell, 0) - sign * twist.angle) % 60
    assert min(turned, 60 - turned) < 1e-6


def test_the_smallest_cell_is_taken():
    """(4, 1) is (2, 1) with one layer rotated by further 60 degrees."""
    assert Twist(4, 1).cells == Twist(2, 1).cells == 7
    assert Twist(4, 1).angle == pytest.approx(60 - Twist(2, 1).angle)


def test_nearest():
    assert nearest_twist(6.0, 0.1, 1100, 2) == Twist(6, 5)
    assert nearest_twist(21.8, 0.1, 28, 2) == Twist(2, 1)
    assert nearest_twist(38.2, 0.1, 28, 2) == Twist(4, 1)
    assert nearest_twist(13.17, 0.01, 190, 5) == Twist(3, 2)
    # No cell with at most as many atoms is nearer to the angle.
    every = [Twist(m, n) for m in range(2, 40) for n in range(1, m) if np.gcd(m, n) == 1]
    best = min((t for t in every if 4 * t.cells <= 2000), key=lambda t: abs(t.angle - 17.0))
    assert nearest_twist(17.0, 1.0, 2000, 2).angle == pytest.approx(best.angle)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((6.0, 0.001, 500, 2), r"within 0\.001 of 6 degrees.*nearest: 6\.009 degrees: \(6, 5\), 364 atoms"),
        ((1.1, 0.1, 20, 2), r"at most 20 atoms; change the angle"),
        ((60.0, 0.1, 500, 2), "angles between 0 and 60"),
        ((6.0, -1.0, 500, 2), "angle_tolerance=-1"),
    ],
)
def test_no_twist_near(arguments, message):
    with pytest.raises(ConfigError, match=message):
        nearest_twist(*arguments)


@pytest.mark.parametrize("pair", [(1, 1), (2, 2), (4, 2), (0, 1), (2, -1)])
def test_pairs_without_a_twist(pair):
    with pytest.raises(ConfigError, match="two different whole numbers"):
        Twist(*pair)


def test_one_layer_cannot_be_twisted():
    with pytest.raises(ConfigError, match="monolayer graphene has one layer"):
        twisted_cell(CRYSTALS["MG"], Twist(2, 1), 15.0)
