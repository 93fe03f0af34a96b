"""Bloch matrices, their eigenproblem, gaps, and the bands of crystals for which they are known."""

import itertools
import signal
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
from scipy.linalg import LinAlgError
from scipy.sparse import csr_array
from scipy.sparse.linalg import ArpackError

from tests.data.crystals.scfout import small_structure
from tests.physics.bands.toys import LAYER, A, chain, flat, graphene, points_of, positive, supercell
from tests.processes import workers
from tracegrad.data.crystal_files.database import CrystalDatabase
from tracegrad.data.crystal_files.deeph import write_structure
from tracegrad.data.crystals.bloch_matrix import BlochMatrix
from tracegrad.data.crystals.structure import Structure
from tracegrad.errors import ConfigError, DataError, TraceGradError
from tracegrad.physics.bands import bands as bands_module
from tracegrad.physics.bands import bloch
from tracegrad.physics.bands.bands import band_gap, band_structure, read_for_bands
from tracegrad.physics.bands.bloch import KPointBands, levels_around, smallest_eigenvalue
from tracegrad.physics.bands.kpath import k_path, periodic_axes

EMBEDDED = Path(str(resources.files("tracegrad.data"))) / "embedded" / "demo_crystals.h5"
GOLDEN = Path(__file__).parents[2] / "golden" / "openmx_graphene.h5"


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


# Gaps


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


# Processes


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
