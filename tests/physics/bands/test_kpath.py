"""Paths through the Brillouin zone: special points, distances, and settings that are refused."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from tests.physics.bands.toys import HEXAGONAL, LAYER, A, chain, graphene
from tracegrad.errors import ConfigError
from tracegrad.physics.bands.bands import band_structure
from tracegrad.physics.bands.kpath import k_path, periodic_axes, standard_path


def lengths(lattice, periodic) -> tuple[str, dict[str, float]]:
    """Distances of the special points from G, 1/angstrom."""
    path, special = standard_path(lattice, periodic)
    reciprocal = 2 * np.pi * np.linalg.inv(lattice).T
    assert all((point[~periodic] == 0).all() for point in special.values())
    return path, {name: round(float(np.linalg.norm(p @ reciprocal)), 6) for name, p in special.items()}


@pytest.mark.parametrize(
    ("lattice", "path", "expected"),
    [
        (HEXAGONAL, "GMKG", {"G": 0, "M": 2 * np.pi / (3**0.5 * A), "K": 4 * np.pi / (3 * A)}),
        (np.diag([4, 4, 15]), "MGXM", {"G": 0, "M": np.pi / 4 * 2**0.5, "X": np.pi / 4}),
        (
            np.diag([3, 5, 15]),
            "GXSYGS",
            {"G": 0, "X": np.pi / 3, "Y": np.pi / 5, "S": np.pi * (1 / 9 + 1 / 25) ** 0.5},
        ),
        (
            np.array([[3, 1, 0], [3, -1, 0], [0, 0, 15]]),
            "GXA1YG",
            {"G": 0, "X": 5 / 9 * np.pi, "A1": 5 / 9 * np.pi, "Y": np.pi / 3},
        ),
    ],
)  # fmt: skip
def test_special_points_of_layers(lattice, path, expected):
    """The path does not depend on orientation, choice of lattice vectors and direction of the vacuum."""
    expected = {name: round(length, 6) for name, length in expected.items()}
    random = np.random.default_rng(0)
    changes = [np.array(m).reshape(2, 2) for m in itertools.product((-1, 0, 1), repeat=4)]
    for change in (m for m in changes if abs(round(np.linalg.det(m))) == 1):
        other = np.eye(3)
        other[:2, :2] = change
        order = random.permutation(3)
        rotated = (other @ lattice @ Rotation.random(rng=random).as_matrix())[order]
        assert lengths(rotated, LAYER[order]) == (path, expected)


def test_special_points_of_crystals():
    fcc = 2.0 * (np.ones((3, 3)) - np.eye(3))
    path, found = lengths(fcc, np.ones(3, bool))
    assert path == "GXWKGLUWLK,UX"
    unit = 2 * np.pi / 4.0
    assert found == {
        "G": 0,
        "X": round(unit, 6),
        "W": round(unit * 1.25**0.5, 6),
        "L": round(unit * 0.75**0.5, 6),
        "K": round(unit * 1.125**0.5, 6),
        "U": round(unit * 1.125**0.5, 6),
    }
    for order in itertools.permutations(range(3)):
        _, found = lengths(np.diag([5.0, 3, 3])[list(order)], np.ones(3, bool))
        assert (found["X"], found["Z"]) == (round(np.pi / 3, 6), round(np.pi / 5, 6))
    _, found = lengths(HEXAGONAL, np.ones(3, bool))
    assert (found["K"], found["A"]) == (round(4 * np.pi / (3 * A), 6), round(np.pi / 15, 6))


def test_special_points_see_the_symmetry_of_the_bands():
    """K is the position of the cone for every choice of lattice vectors."""
    for change in ([[1, 0], [0, 1]], [[1, -1], [0, 1]], [[0, 1], [1, 0]], [[-1, 0], [1, 1]]):
        matrix = np.eye(3, dtype=int)
        matrix[:2, :2] = change
        structure = graphene(overlap=0.0)
        edges = structure.edges.copy()
        edges[:, :3] = edges[:, :3] @ np.round(np.linalg.inv(matrix)).astype(int)
        turned = replace(structure, lattice=matrix @ structure.lattice, edges=edges)
        found, _ = band_structure(turned, k_path(turned.lattice, LAYER, path="K"))
        assert np.abs(found.energies).max() < 1e-12


def test_a_tilted_vacuum_does_not_change_distances():
    tilted = HEXAGONAL.copy()
    tilted[2] = [4.0, 1.0, 15.0]
    upright, other = (k_path(lattice, LAYER, npoints=20) for lattice in (HEXAGONAL, tilted))
    assert np.abs(upright.distances - other.distances).max() < 1e-12


def test_points_of_a_path():
    points = {"A": [0.5, 0, 0], "B": [0, 0.25, 0]}
    path = k_path(np.diag([1.0, 2.0, 4.0]), np.ones(3, bool), path="GA,BG", points=points, npoints=50)
    step = np.pi  # of G to A; B to G is a quarter of it
    assert path.ticks == ((0.0, "G"), (step, "A,B"), (pytest.approx(1.25 * step), "G"))
    assert len(path.points) == 1 + 40 + 1 + 10
    assert path.points[[0, 40, 41, -1]].tolist() == [[0, 0, 0], [0.5, 0, 0], [0, 0.25, 0], [0, 0, 0]]
    assert path.distances[40] == path.distances[41]
    assert (np.diff(path.distances) >= 0).all()
    assert path.points[20].tolist() == [0.25, 0, 0]
    single = k_path(HEXAGONAL, np.zeros(3, bool), points={"G": [0, 0, 0]})
    assert (single.name, len(single.points), single.ticks) == ("G", 1, ((0.0, "G"),))
    in_order = k_path(HEXAGONAL, LAYER, points={"Q": [0, 0, 0], "A1": [0, 1, 0]}, npoints=2)
    assert in_order.name == "QA1"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": "GXZ"}, r"path GXZ: no special point X, Z; there are G \[0.0, 0.0, 0.0\], M .*points= adds"),
        ({"path": "gmkg"}, "path 'gmkg' is not understood"),
        ({"path": "GM-KG"}, "path 'GM-KG' is not understood"),
        ({"path": ""}, "path '' is not understood"),
        ({"path": "GM,"}, "path 'GM,' is not understood"),
        ({"points": {"A": [0, 0]}}, r"points: A is \[0, 0\]; give three numbers"),
        ({"points": {"A": [0, 0, float("nan")]}}, "points: A is"),
        ({"points": {"A": "middle"}}, "points: A is 'middle'"),
        ({"points": {"a": [0, 0, 0]}}, "points: the name 'a'"),
        ({"npoints": 1}, "npoints is 1; at least 2"),
        ({"periodic": [False] * 3}, "no block connects two cells"),
    ],
)  # fmt: skip
def test_bad_paths(settings, message):
    arguments = {"lattice": HEXAGONAL, "periodic": LAYER, **settings}
    lattice, periodic = arguments.pop("lattice"), np.array(arguments.pop("periodic"))
    with pytest.raises(ConfigError, match=message):
        k_path(lattice, periodic, **arguments)


def test_vacuum_is_where_no_block_crosses():
    assert periodic_axes(chain().edges).tolist() == [True, False, False]
    assert periodic_axes(graphene().edges).tolist() == [True, True, False]
    assert periodic_axes(np.array([[0, 0, 0, 0, 0], [0, 0, 2, 0, 0], [0, 0, -2, 0, 0]])).tolist() == [
        False,
        False,
        True,
    ]
