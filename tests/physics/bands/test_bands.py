import itertools
import signal
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.linalg
from scipy.linalg import LinAlgError
from scipy.sparse import csr_array
from scipy.sparse.linalg import ArpackError
from scipy.spatial.transform import Rotation

from tests.data.crystals.scfout import small_structure
from tests.processes import workers
from tracegrad.data.crystals.database import CrystalDatabase
from tracegrad.data.crystals.deeph import write_structure
from tracegrad.data.crystals.structure import Structure, edge_order
from tracegrad.errors import ConfigError, DataError, TraceGradError
from tracegrad.physics.bands import bands as bands_module
from tracegrad.physics.bands import bloch
from tracegrad.physics.bands.band_errors import band_errors, with_hamiltonian
from tracegrad.physics.bands.bands import (
    BandStructure,
    PredictedBands,
    band_gap,
    band_structure,
    read_for_bands,
)
from tracegrad.physics.bands.bloch import BlochMatrix, KPointBands, levels_around, smallest_eigenvalue
from tracegrad.physics.bands.kpath import KPath, k_path, periodic_axes, standard_path

EMBEDDED = Path(str(resources.files("tracegrad.data"))) / "embedded" / "demo_crystals.h5"
GOLDEN = Path(__file__).parents[2] / "golden" / "openmx_graphene.h5"
LAYER = np.array([True, True, False])
A = 2.46
HEXAGONAL = np.array([[A, 0, 0], [A / 2, A * 3**0.5 / 2, 0], [0, 0, 15]])


def tight_binding(
    lattice: np.ndarray,
    positions: np.ndarray,
    hoppings: Mapping[tuple[int, ...], float],
    overlaps: Mapping[tuple[int, ...], float] | None = None,
    on_site: float = 0.0,
) -> Structure:
    """A structure with one s orbital on each atom; ``hoppings`` (eV) by (Rx, Ry, Rz, i, j), in one direction."""
    overlaps = overlaps or {}
    table = {(0, 0, 0, i, i): (on_site, 1.0) for i in range(len(positions))}
    for (rx, ry, rz, i, j), hopping in hoppings.items():
        value = (hopping, overlaps.get((rx, ry, rz, i, j), 0.0))
        table[rx, ry, rz, i, j] = table[-rx, -ry, -rz, j, i] = value
    edges = np.array(list(table))
    order = edge_order(edges)
    values = np.array(list(table.values()))[order]
    return Structure(
        name="toy",
        numbers=np.full(len(positions), 6),
        positions=np.asarray(positions, dtype=float),
        lattice=np.asarray(lattice, dtype=float),
        shells={6: (0,)},
        spinful=False,
        fermi_level=0.0,
        edges=edges[order],
        hamiltonian=values[:, 0].copy(),
        overlap=values[:, 1].copy(),
    )


def graphene(hopping=-2.7, overlap=0.1, on_site=0.0) -> Structure:
    positions = np.array([[1 / 3, 1 / 3, 0.5], [2 / 3, 2 / 3, 0.5]]) @ HEXAGONAL
    pairs = [(0, 0, 0, 0, 1), (-1, 0, 0, 0, 1), (0, -1, 0, 0, 1)]
    return tight_binding(
        HEXAGONAL, positions, dict.fromkeys(pairs, hopping), dict.fromkeys(pairs, overlap), on_site
    )


def chain(hopping=-1.0, overlap=0.2, length=2.0) -> Structure:
    return tight_binding(
        np.diag([length, 10, 10]), [[0.1, 5, 5]], {(1, 0, 0, 0, 0): hopping}, {(1, 0, 0, 0, 0): overlap}
    )


def supercell(structure: Structure, repeats: tuple[int, int]) -> Structure:
    counts = np.array([*repeats, 1])
    cells = list(itertools.product(range(repeats[0]), range(repeats[1]), [0]))
    atoms = len(structure.numbers)
    edges, parts = [], {"hamiltonian": [], "overlap": []}
    for n, cell in enumerate(cells):
        for edge, *blocks in zip(
            structure.edges.tolist(), *(structure.blocks(matrix) for matrix in parts), strict=True
        ):
            target = np.array(cell) + edge[:3]
            inside = tuple((target % counts).tolist())
            edges.append([*(target // counts), n * atoms + edge[3], cells.index(inside) * atoms + edge[4]])
            for matrix, block in zip(parts, blocks, strict=True):
                parts[matrix].append(block.ravel())
    order = edge_order(np.array(edges))
    return replace(
        structure,
        name="supercell",
        numbers=np.tile(structure.numbers, len(cells)),
        positions=np.concatenate(
            [structure.positions + cell @ structure.lattice for cell in np.array(cells)]
        ),
        lattice=structure.lattice * counts[:, None],
        edges=np.array(edges)[order],
        **{matrix: np.concatenate([blocks[n] for n in order]) for matrix, blocks in parts.items()},
    )


def points_of(*points) -> KPath:
    return KPath("A", np.array(points, dtype=float), np.arange(float(len(points))), ((0.0, "A"),))


def literal(structure: Structure, matrix: str, k) -> np.ndarray:
    """H(k) or S(k) by a loop over all elements; S of a spinful structure is repeated for both spins."""
    sizes = [structure.basis.sizes[z] for z in structure.numbers]
    starts = np.cumsum([0, *sizes])
    total = np.zeros((starts[-1], starts[-1]), complex)
    for (rx, ry, rz, i, j), block in zip(structure.edges.tolist(), structure.blocks(matrix), strict=True):
        if structure.spinful and matrix == "overlap":
            zero = np.zeros_like(block)
            block = np.block([[block, zero], [zero, block]])
        phase = np.exp(2j * np.pi * (k[0] * rx + k[1] * ry + k[2] * rz))
        for a in range(sizes[i]):
            for b in range(sizes[j]):
                total[starts[i] + a, starts[j] + b] += phase * block[a, b]
    return total


def positive(structure: Structure) -> Structure:
    """The structure with random overlaps that are small compared with 1."""
    on_site = [e[:3] == [0, 0, 0] and e[3] == e[4] for e in structure.edges.tolist()]
    blocks = [
        0.005 * block + np.eye(len(block)) * alone if alone else 0.005 * block
        for block, alone in zip(structure.blocks("overlap"), on_site, strict=True)
    ]
    return replace(structure, overlap=np.concatenate([block.ravel() for block in blocks]))


# Bloch matrices and the eigenproblem


@pytest.mark.parametrize("spinful", [False, True])
@pytest.mark.parametrize("k", [(0, 0, 0), (0.5, 0, 0), (0.13, -0.41, 0.77)])
def test_bloch_matrices_by_loops(spinful, k):
    structure = small_structure(spinful)
    for matrix in ("hamiltonian", "overlap"):
        found = BlochMatrix(structure, matrix).at(np.array(k, dtype=float)).toarray()
        assert np.abs(found - literal(structure, matrix, k)).max() < 1e-13
        assert np.abs(found - found.conj().T).max() < 1e-13


@pytest.mark.parametrize("spinful", [False, True])
def test_energies_are_those_of_scipy(spinful):
    structure = positive(small_structure(spinful))
    points = [(0, 0, 0), (0.3, -0.1, 0.4)]
    found, _ = band_structure(structure, points_of(*points))
    smallest = []
    for k, energies in zip(points, found.energies, strict=True):
        matrices = [literal(structure, matrix, k) for matrix in ("hamiltonian", "overlap")]
        assert np.abs(energies - scipy.linalg.eigh(*matrices, eigvals_only=True)).max() < 1e-12
        smallest.append(scipy.linalg.eigvalsh(matrices[1])[0])
    assert found.smallest_overlap == pytest.approx(min(smallest), abs=1e-13)
    assert (found.first, found.total, found.fermi_level) == (0, len(matrices[0]), -4.25)


@pytest.mark.parametrize("k", [(0, 0, 0), (0.5, 0, 0), (0.21, 0.4, 0)])
def test_energies_around_a_level(k):
    """All states of degenerate groups are computed, though Lanczos iterations miss some in groups of 8 and more."""
    for repeats in (5, 6):
        structure = supercell(graphene(), (repeats, repeats))
        h, s = (BlochMatrix(structure, m).at(np.array(k, dtype=float)) for m in ("hamiltonian", "overlap"))
        energies = scipy.linalg.eigh(h.toarray(), s.toarray(), eigvals_only=True)
        for level, number in itertools.product((-3.3, 0.01, 2.9), (10, 13, 17)):
            found = levels_around(h, s, level, number)
            count = len(found.energies)
            expected = energies[found.first : found.first + count]
            assert np.abs(found.energies - expected).max() < 1e-10
            norms = found.vectors.conj().T @ (s @ found.vectors)
            assert np.abs(norms - np.eye(count)).max() < 1e-10
        assert smallest_eigenvalue(s, dense=False) == pytest.approx(
            smallest_eigenvalue(s, dense=True), rel=1e-3
        )


def diagonal(energies) -> tuple[csr_array, csr_array]:
    return csr_array(np.diag(energies).astype(complex)), csr_array(np.eye(len(energies), dtype=complex))


def test_a_level_that_is_an_eigenvalue():
    found = levels_around(*diagonal(np.arange(40.0)), 20.0, 5)
    assert found.first <= 18
    assert found.first + len(found.energies) >= 23
    assert found.energies == pytest.approx(found.first + np.arange(len(found.energies)))


def test_states_that_cannot_be_told_apart():
    with pytest.raises(LinAlgError, match=r"degenerate states are missing among the 18 nearest to 0.500 eV"):
        levels_around(*diagonal(np.ones(40)), 0.5, 3)


def test_iterations_that_break_down(monkeypatch):
    """ARPACK may stop because of rounding at a degenerate level; the next attempt succeeds."""
    original, tries = bloch.eigsh, []

    def breaking(*arguments, **options):
        tries.append(options)
        if len(tries) == 1:
            raise ArpackError(3)
        return original(*arguments, **options)

    monkeypatch.setattr(bloch, "eigsh", breaking)
    found = levels_around(*diagonal(np.arange(40.0)), 20.2, 5)
    assert len(tries) == 2
    assert found.energies == pytest.approx(found.first + np.arange(len(found.energies)))

    def broken(*arguments, **options):
        raise ArpackError(3)

    monkeypatch.setattr(bloch, "eigsh", broken)
    with pytest.raises(LinAlgError, match="ARPACK error 3"):
        levels_around(*diagonal(np.arange(40.0)), 20.2, 5)
    assert smallest_eigenvalue(diagonal(np.arange(1.0, 41.0))[0], dense=False) == pytest.approx(1)


# Known bands


def test_a_chain():
    structure = chain()
    path = k_path(structure.lattice, periodic_axes(structure.edges), npoints=20)
    assert path.name == "GX"
    found, _ = band_structure(structure, path)
    cosine = np.cos(2 * np.pi * path.points[:, 0])
    assert np.abs(found.energies[:, 0] - 2 * -1.0 * cosine / (1 + 2 * 0.2 * cosine)).max() < 1e-13
    assert path.distances[-1] == pytest.approx(np.pi / 2.0)
    assert found.smallest_overlap == pytest.approx(1 - 0.4)
    gap = band_gap(found)
    assert (gap.metal, gap.bands, gap.gap, gap.direct_gap) == (True, (1, 1), 0.0, None)


def test_the_dirac_cone_of_graphene():
    structure = graphene(overlap=0.0)
    path = k_path(structure.lattice, periodic_axes(structure.edges), npoints=60)
    assert path.name == "GMKG"
    found, _ = band_structure(structure, path)
    (corner,) = [distance for distance, name in path.ticks if name == "K"]
    assert np.abs(found.energies[path.distances == corner]).max() < 1e-12
    k = path.points
    size = 2.7 * np.abs(1 + np.exp(-2j * np.pi * k[:, 0]) + np.exp(-2j * np.pi * k[:, 1]))
    assert np.abs(found.energies - np.stack([-size, size], axis=1)).max() < 1e-12
    # (sqrt(3) / 2) a t is the slope of the cone.
    near = np.abs(path.distances - corner) < 0.12
    slopes = found.energies[near, 1] / np.maximum(np.abs(path.distances[near] - corner), 1e-9)
    assert slopes[slopes > 0.1] == pytest.approx(3**0.5 / 2 * A * 2.7, rel=0.07)


def test_the_bands_of_a_supercell_are_folded():
    structure = graphene()
    large = supercell(structure, (2, 2))
    for k in np.random.default_rng(0).random((4, 3)):
        folded = [(k + np.array([p, q, 0])) / [2, 2, 1] for p in (0, 1) for q in (0, 1)]
        expected = np.sort(band_structure(structure, points_of(*folded))[0].energies.ravel())
        found, _ = band_structure(large, points_of(k))
        assert np.abs(found.energies[0] - expected).max() < 1e-12


def test_openmx_graphene():
    """A calculation with OpenMX: the cone at K is at its Fermi level, and the depth of the sigma bands is right."""
    structure = CrystalDatabase(GOLDEN, overlap=True)[0]
    periodic = periodic_axes(structure.edges)
    assert periodic.tolist() == [True, True, False]
    path = k_path(structure.lattice, periodic, npoints=30)
    found, _ = band_structure(structure, path)
    (corner,) = [distance for distance, name in path.ticks if name == "K"]
    cone = found.energies[path.distances == corner][0, 3:5] - structure.fermi_level
    assert np.abs(cone).max() < 2e-3  # the real-space grid breaks the symmetry by this much
    assert found.energies[0, 0] - structure.fermi_level == pytest.approx(-19.6, abs=0.1)
    gap = band_gap(found)
    assert (gap.bands, gap.metal) == ((4, 5), False)
    assert gap.gap < 2e-3
    assert gap.step > 0.3  # the resolution of the path, far larger than the gap
    assert 5e-4 < found.smallest_overlap < 1e-3


def test_kramers_pairs_of_bismuthene():
    """Spin-orbit coupling of another program: energies are equal at k and -k, so at G and M they come in pairs."""
    structure = CrystalDatabase(EMBEDDED, include="light_bismuthene_*")[0]
    blocks = structure.blocks("hamiltonian")
    overlaps = []
    for edge, block in zip(structure.edges.tolist(), blocks, strict=True):
        n, m = block.shape[0] // 2, block.shape[1] // 2
        overlap = 0.002 * (block[:n, :m] + block[n:, m:]).real / 2
        overlaps.append(overlap + np.eye(n) if edge[:3] == [0, 0, 0] and edge[3] == edge[4] else overlap)
    structure = replace(structure, overlap=np.concatenate([overlap.ravel() for overlap in overlaps]))
    k = np.array([0.17, -0.31, 0.0])
    found, _ = band_structure(structure, points_of([0, 0, 0], [0.5, 0, 0], [0.5, 0.5, 0], k, -k))
    pairs = found.energies[:3].reshape(3, -1, 2)
    assert np.abs(pairs[..., 1] - pairs[..., 0]).max() < 1e-5
    assert np.abs(found.energies[3] - found.energies[4]).max() < 1e-5
    assert np.abs(found.energies[3] - found.energies[0]).max() > 0.1


# Paths


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


# Gaps


def flat(energies, fermi_level=0.0, first=0) -> BandStructure:
    energies = np.array(energies, dtype=float)
    path = points_of(*([0.1 * n, 0, 0] for n in range(len(energies))))
    return BandStructure("toy", path, energies, first, first + energies.shape[1] + 3, fermi_level, 1.0)


def test_gaps():
    gap = band_gap(flat([[-3, -1.0, 2], [-3, -0.5, 1.5], [-3, -2, 1.0]], first=4))
    assert (gap.metal, gap.bands) == (False, (6, 7))
    assert (gap.gap, gap.direct_gap) == (1.5, 2.0)
    assert (gap.valence, gap.conduction) == (-0.5, 1.0)
    assert (gap.valence_point, gap.conduction_point, gap.direct_point) == (1, 2, 1)
    assert gap.step == 1.5
    crossing = flat([[-3, -1, 0.5, 2], [-3, 0.1, 1, 2], [-3, -1, -0.5, 2]])
    assert (band_gap(crossing).metal, band_gap(crossing).bands) == (True, (2, 3))
    # With a known number of occupied bands the Fermi level does not matter.
    moved = flat([[-1, 5], [-2, 4.5]], fermi_level=-1.5)
    assert band_gap(moved).metal
    assert band_gap(moved, occupied=1).gap == 5.5
    overlapping = band_gap(flat([[-1, 1], [-5, -2]]), occupied=1)
    assert (overlapping.metal, overlapping.gap, overlapping.bands) == (True, 0.0, (1, 2))


@pytest.mark.parametrize("level", [-9.0, 9.0])
def test_fermi_levels_outside_of_all_bands(level):
    with pytest.raises(DataError, match=r"toy: [03] occupied bands, but 1 to 3 were computed; correct fermi"):
        band_gap(flat([[-3, -1, 2]], fermi_level=level))


# Predictions


def disturbed(structure: Structure, size: float) -> Structure:
    other = small_structure(structure.spinful, seed=7)
    return replace(structure, hamiltonian=structure.hamiltonian + size * other.hamiltonian)


def errors_of(structure, predicted, window=(-30.0, 30.0), **settings):
    bands, prediction = band_structure(
        structure, points_of([0, 0, 0], [0.2, 0.1, 0]), predicted=predicted, **settings
    )
    return bands, prediction, band_errors(bands, prediction, window)


@pytest.mark.parametrize("spinful", [False, True])
def test_a_shift_by_the_overlap_is_a_shift_of_all_bands(spinful):
    structure = positive(small_structure(spinful))
    overlap = structure.overlap
    if spinful:
        blocks = [np.kron(np.eye(2), block).ravel() for block in structure.blocks("overlap")]
        overlap = np.concatenate(blocks)
    predicted = replace(structure, hamiltonian=structure.hamiltonian + 0.013 * overlap)
    bands, prediction, errors = errors_of(structure, predicted)
    assert errors.states == bands.energies.size
    assert np.abs(prediction.first_order - 0.013).max() < 1e-12
    for one in (errors.eigenvalues, errors.first_order):
        assert (one.mean, one.mae, one.max) == pytest.approx((13, 13, 13), abs=1e-8)
        assert (one.aligned_mae, one.aligned_max) == pytest.approx((0, 0), abs=1e-8)
    assert not errors.aligned_extra.any()


@pytest.mark.parametrize("spinful", [False, True])
def test_first_order_shifts_are_the_slope_of_the_energies(spinful):
    structure = positive(small_structure(spinful))
    bands, prediction, errors = errors_of(structure, disturbed(structure, 1e-5))
    differences = prediction.bands.energies - bands.energies
    assert np.abs(differences).max() > 1e-5
    assert np.abs(differences - prediction.first_order).max() < 1e-8
    assert errors.eigenvalues.mae == pytest.approx(1000 * np.abs(differences).mean(), rel=1e-12)
    assert errors.eigenvalues.max == pytest.approx(1000 * np.abs(differences).max(), rel=1e-12)
    aligned = 1000 * (differences - differences.mean())
    assert errors.eigenvalues.aligned_mae == pytest.approx(np.abs(aligned).mean(), rel=1e-9)
    assert errors.eigenvalues.aligned_max == pytest.approx(np.abs(aligned).max(), rel=1e-9)
    first_order = 1000 * prediction.first_order
    assert errors.first_order.mae == pytest.approx(np.abs(first_order).mean(), rel=1e-12)


def test_first_order_shifts_of_degenerate_states():
    """H' couples two uncoupled chains; the first-order shifts are those of the even and the odd state."""
    pairs = {(1, 0, 0, 0, 0): -1.0, (1, 0, 0, 1, 1): -1.0, (0, 0, 0, 0, 1): 0.0}
    positions = [[0.1, 5, 5], [0.1, 7, 5]]
    structure, coupled = (
        tight_binding(np.diag([2, 12, 12]), positions, {**pairs, (0, 0, 0, 0, 1): hopping})
        for hopping in (0.0, 0.25)
    )
    bands, prediction, _ = errors_of(structure, coupled)
    assert np.abs(prediction.first_order - [-0.25, 0.25]).max() < 1e-12
    assert np.abs(prediction.bands.energies - bands.energies - [-0.25, 0.25]).max() < 1e-12


def test_states_in_the_window_and_ghost_bands():
    bands = flat([[-3, -1, 1, 3], [-3, -1.5, 1.5, 3]])
    bands = replace(bands, total=4)
    predicted = replace(bands, energies=bands.energies + np.array([0.5, 0.1, 0.3, -1.5]))
    shifts = np.broadcast_to([7.0, 0.2, 0.4, 7.0], (2, 4))
    errors = band_errors(bands, PredictedBands(predicted, shifts), (-2.0, 2.0))
    assert errors.states == 4
    assert (errors.eigenvalues.mean, errors.eigenvalues.mae, errors.eigenvalues.max) == pytest.approx(
        (200, 200, 300)
    )
    assert (errors.eigenvalues.aligned_mae, errors.eigenvalues.aligned_max) == pytest.approx((100, 100))
    assert (errors.first_order.mae, errors.first_order.aligned_mae) == pytest.approx((300, 100))
    assert errors.extra.tolist() == [1, 1]
    assert errors.aligned_extra.tolist() == [1, 1]
    assert errors.window == (-2.0, 2.0)


def test_windows_shrink_to_what_was_computed():
    bands = flat([[-1.0, -0.2, 0.8], [-0.9, -0.1, 1.0]], first=5)
    predicted = replace(bands, first=4, energies=bands.energies[:, [0, 0, 1]] + [[-3.0, 0, 0]])
    predicted = replace(predicted, energies=predicted.energies)
    errors = band_errors(bands, PredictedBands(predicted, np.zeros((2, 3))), (-2.0, 2.0))
    assert errors.window == (-0.9, -0.2)
    assert errors.states == 2  # one at the lower and one at the upper end
    assert errors.eigenvalues.max == 0


@pytest.mark.parametrize(
    ("window", "message"),
    [((2.0, -2.0), "window is"), ((0.0, 0.0), "window is"), ((0.1, 0.2), "none of the bands 1 to 2 is")],
)
def test_bad_windows(window, message):
    bands = replace(flat([[-1, 1]]), total=2)
    with pytest.raises(ConfigError, match=message):
        band_errors(bands, PredictedBands(bands, np.zeros((1, 2))), window)


def test_some_bands_are_the_same_as_those_of_all():
    structure = supercell(graphene(on_site=0.1), (6, 6))
    predicted = replace(structure, hamiltonian=1.01 * structure.hamiltonian)
    points = points_of([0.05, 0, 0], [0.1, 0.03, 0], [0.2, 0.1, 0])
    everything, whole = band_structure(structure, points, predicted=predicted)
    some, part = band_structure(structure, points, predicted=predicted, bands=16)
    assert 10 < some.energies.shape[1] <= 22
    for few, every in ((some, everything), (part.bands, whole.bands)):
        columns = slice(few.first, few.first + few.energies.shape[1])
        assert np.abs(few.energies - every.energies[:, columns]).max() < 1e-9
        assert few.total == 72
    columns = slice(some.first, some.first + some.energies.shape[1])
    assert np.abs(part.first_order - whole.first_order[:, columns]).max() < 1e-9
    found, expected = (
        band_errors(bands, prediction, (-1.2, 1.2))
        for bands, prediction in ((some, part), (everything, whole))
    )
    assert found.states == expected.states
    assert found.eigenvalues.mae == pytest.approx(expected.eigenvalues.mae, rel=1e-6)


@pytest.mark.slow
def test_processes_give_the_same():
    structure = graphene()
    path = k_path(structure.lattice, LAYER, npoints=6)
    seen = []
    one, _ = band_structure(structure, path)
    two, prediction = band_structure(
        structure, path, predicted=structure, processes=2, on_progress=lambda *both: seen.append(both)
    )
    assert np.array_equal(one.energies, two.energies)
    assert np.array_equal(prediction.bands.energies, two.energies)
    assert seen == [(n, len(path.points)) for n in range(len(path.points) + 1)]


class Deadly(str):
    """A name that kills the process that unpickles it."""

    def __reduce__(self):
        return signal.raise_signal, (signal.SIGKILL,)


@pytest.mark.slow
def test_failures_of_processes():
    with pytest.raises(DataError, match=r"k = \[0\.0, 0\.0, 0\.0\]: S is not positive definite"):
        band_structure(graphene(overlap=0.5), points_of([0, 0, 0]), processes=2)
    with pytest.raises(TraceGradError, match=r"toy: a worker process died \(killed by SIGKILL\); fewer"):
        band_structure(replace(graphene(), name=Deadly("toy")), points_of([0, 0, 0]), processes=2)


@pytest.mark.slow
def test_processes_are_started_for_long_work_only(monkeypatch):
    """Asked for no number of processes; there is one point, so that there is work for one of them."""
    monkeypatch.setattr(bands_module, "available_cores", lambda: 2)

    def most_workers() -> int:
        counts: list[int] = []
        band_structure(graphene(), points_of([0, 0, 0]), on_progress=lambda *_: counts.append(len(workers())))
        return max(counts)

    assert most_workers() == 0
    monkeypatch.setattr(bands_module, "_WORTH_PROCESSES", 1.0)
    assert most_workers() == 1


def test_large_cells_get_bands_around_the_fermi_level(monkeypatch):
    monkeypatch.setattr(bands_module, "LARGEST_DENSE", 20)
    monkeypatch.setattr(bands_module, "BANDS_OF_LARGE", 6)
    found, _ = band_structure(supercell(graphene(), (5, 5)), points_of([0.1, 0.05, 0]))
    assert 6 <= found.energies.shape[1] <= 12
    assert found.first <= 22


# Wrong data and settings


@pytest.mark.parametrize("bands", [None, 3])
def test_overlaps_that_are_not_positive(bands):
    large = supercell(graphene(overlap=0.5), (4, 4))
    with pytest.raises(
        DataError, match=r"supercell: k = \[0.0, 0.0, 0.0\]: S is not positive definite .*-(5.0e-01|inf)"
    ):
        band_structure(large, points_of([0, 0, 0]), bands=bands)


def test_wrong_inputs():
    structure = graphene()
    point = points_of([0, 0, 0])
    with pytest.raises(DataError, match="toy: no Fermi level in it; set fermi_level"):
        band_structure(replace(structure, fermi_level=None), point)
    assert band_structure(replace(structure, fermi_level=None), point, fermi_level=1.0)[0].fermi_level == 1
    for name in ("bands", "processes"):
        with pytest.raises(ConfigError, match=f"{name} is 0; at least 1"):
            band_structure(structure, point, **{name: 0})
    for matrix in ("hamiltonian", "overlap"):
        with pytest.raises(DataError, match=f"toy: the {matrix} has not been read; bands need H and S"):
            band_structure(replace(structure, **{matrix: None}), point)
        broken = getattr(structure, matrix).copy()
        broken[1] += 1.0
        with pytest.raises(DataError, match=f"toy: the {matrix} is not hermitian"):
            band_structure(replace(structure, **{matrix: broken}), point)
    with pytest.raises(DataError, match="the hamiltonian is not hermitian"):
        band_structure(structure, point, predicted=replace(structure, hamiltonian=broken))


def test_bands_of_no_common_number():
    points = points_of([0, 0, 0], [0, 0, 0])
    with pytest.raises(ConfigError, match=r"toy: no band is among those nearest .*set more bands"):
        bands_module._band_structures(
            graphene(), points, 0.0, 9, [KPointBands(n, np.zeros(2), 1.0) for n in (1, 3)]
        )


def test_folders(tmp_path):
    structure = graphene()
    write_structure(structure, tmp_path / "a")
    assert np.array_equal(read_for_bands(tmp_path / "a").overlap, structure.overlap)
    write_structure(replace(structure, overlap=None), tmp_path / "b")
    with pytest.raises(DataError, match=r"b/overlaps\.h5: no such file, but bands need the overlap too"):
        read_for_bands(tmp_path / "b")
    with pytest.raises(DataError, match="no such folder"):
        read_for_bands(tmp_path / "none")


def test_predicted_hamiltonians(tmp_path):
    structure = small_structure()
    predicted = disturbed(structure, 0.1)
    write_structure(replace(predicted, overlap=None), tmp_path / "p")
    for source in (tmp_path / "p", tmp_path / "p" / "hamiltonians.h5"):
        found = with_hamiltonian(structure, source)
        assert np.array_equal(found.hamiltonian, predicted.hamiltonian)
        assert found.overlap is structure.overlap
    with pytest.raises(DataError, match="none: no such folder"):
        with_hamiltonian(structure, tmp_path / "none")
    (tmp_path / "text").write_text("no HDF5")
    with pytest.raises(DataError, match="text: not a readable HDF5 file"):
        with_hamiltonian(structure, tmp_path / "text")
    with h5py.File(tmp_path / "p" / "hamiltonians.h5", "a") as file:
        file["[0, 0, 0, 1, 2]"][0, 0] += 1.0
    with pytest.raises(DataError, match=r"hamiltonians\.h5: the hamiltonian is not hermitian"):
        with_hamiltonian(structure, tmp_path / "p" / "hamiltonians.h5")
    with h5py.File(tmp_path / "p" / "hamiltonians.h5", "a") as file:
        del file["[1, 0, 0, 1, 2]"]
    with pytest.raises(DataError, match=r"hamiltonians\.h5: other pairs of atoms in its blocks than"):
        with_hamiltonian(structure, tmp_path / "p" / "hamiltonians.h5")


def test_predictions_of_other_structures(tmp_path):
    structure = small_structure()
    turned = structure.numbers[[1, 0, 2]]
    shells = {16: (0, 1), 42: (0, 0, 0, 1, 1)}
    others = {
        "other atoms": replace(structure, **zeros(turned)),
        "the lattice differ by": replace(structure, lattice=structure.lattice * 1.01),
        "the positions differ by": replace(structure, positions=structure.positions + 0.01),
        "isspinful is True, but False": small_structure(spinful=True),
        "shells is": replace(structure, **zeros(structure.numbers, shells)),
        "other pairs": chosen(structure, (structure.edges[:, :2] == 0).all(1)),
    }
    for n, (message, other) in enumerate(others.items()):
        write_structure(replace(other, overlap=None), tmp_path / str(n))
        with pytest.raises(DataError, match=rf"{tmp_path}/{n}: .*{message}"):
            with_hamiltonian(structure, tmp_path / str(n))


def zeros(numbers, shells=None) -> dict[str, object]:
    """Atoms and shells of another structure with a Hamiltonian of zeros."""
    parts = {"numbers": numbers, "shells": shells or small_structure().shells}
    structure = replace(small_structure(), **parts)
    rows, columns = structure.basis.sizes[numbers[structure.edges[:, 3:].T]]
    return {**parts, "hamiltonian": np.zeros(int((rows * columns).sum()))}


def chosen(structure, kept) -> Structure:
    """The structure with some of its blocks."""
    blocks = [
        block.ravel() for block, keep in zip(structure.blocks("hamiltonian"), kept, strict=True) if keep
    ]
    return replace(structure, edges=structure.edges[kept], hamiltonian=np.concatenate(blocks))
