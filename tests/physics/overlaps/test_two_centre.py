"""Overlaps against closed forms (PySCF's integrals of Gaussians) and against numerical integration in space."""

import math
from itertools import product
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch
from pyscf import gto

from tests.crystals import CHAIN, MOS2
from tests.physics.overlaps.gaussian_files import GaussianShell, write_ion_xml, write_orb, write_pao
from tracegrad.data.crystals.bloch_matrix import BlochMatrix
from tracegrad.data.crystals.structure import Structure, edge_order, hermiticity_error
from tracegrad.errors import BasisError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.ops.spherical_harmonics import spherical_harmonics
from tracegrad.physics.overlaps.basis_files import read_basis_file
from tracegrad.physics.overlaps.bessel import spherical_bessel
from tracegrad.physics.overlaps.radial_shells import RadialShell, RadialShells
from tracegrad.physics.overlaps.two_centre import TwoCentreOverlaps
from tracegrad.units import ANGSTROM_PER_BOHR

# Degrees up to g; two elements, so that no symmetry of equal atoms hides a mistake.
SHELLS = {
    6: [GaussianShell(0, 0.8), GaussianShell(0, 1.7), GaussianShell(1, 0.7), GaussianShell(3, 0.9)],
    14: [GaussianShell(0, 0.6), GaussianShell(1, 1.2), GaussianShell(2, 0.75), GaussianShell(4, 0.8)],
}
SYMBOLS = {6: "C", 14: "Si"}
VECTORS = torch.tensor(  # bohr
    [[0, 0, 0], [0, 0, 1.3], [0, 0, -2.0], [1.1, -0.7, 0.4], [-0.3, 2.2, 1.9], [0.02, 0.0, 3.5], [4, 3, -4]],
    dtype=torch.float64,
)


@pytest.fixture(scope="module")
def overlaps(tmp_path_factory: pytest.TempPathFactory) -> TwoCentreOverlaps:
    folder = tmp_path_factory.mktemp("basis")
    files = {z: write_ion_xml(folder, SYMBOLS[z], shells) for z, shells in SHELLS.items()}
    return TwoCentreOverlaps({z: read_basis_file(file) for z, file in files.items()}, 16.0)


def closed_form(first: int, second: int, vectors: torch.Tensor) -> np.ndarray:
    """Overlaps of the Gaussians in PySCF's order; vectors in bohr."""

    def molecule(number: int, position: list[float]) -> gto.Mole:
        basis = [[shell.degree, [shell.exponent, 1.0]] for shell in SHELLS[number]]
        return gto.M(
            atom=[(SYMBOLS[number], position)],
            basis={SYMBOLS[number]: basis},
            unit="bohr",
            spin=None,
            verbose=0,
        )

    at_origin = molecule(first, [0.0, 0.0, 0.0])
    return np.stack(
        [gto.intor_cross("int1e_ovlp", at_origin, molecule(second, vector)) for vector in vectors.tolist()]
    )


@pytest.mark.parametrize(("first", "second"), [(6, 14), (14, 6), (14, 14)])
def test_closed_forms(overlaps: TwoCentreOverlaps, first: int, second: int) -> None:
    blocks = overlaps.blocks(VECTORS * ANGSTROM_PER_BOHR, first, second, "pyscf").numpy()
    np.testing.assert_allclose(blocks, closed_form(first, second, VECTORS), rtol=0, atol=1e-8)


@pytest.mark.parametrize("write", [write_pao, write_orb])
def test_closed_forms_from_other_formats(write, tmp_path: Path) -> None:
    """The mesh of OpenMX, with slopes of second order in its step, limits the first one."""
    shells = read_basis_file(write(tmp_path, "C", SHELLS[6])).select((0, 0, 1, 3))
    blocks = TwoCentreOverlaps({6: shells}, 16.0).blocks(VECTORS * ANGSTROM_PER_BOHR, 6, 6, "pyscf")
    np.testing.assert_allclose(blocks.numpy(), closed_form(6, 6, VECTORS), rtol=0, atol=1e-7)


def hard_shell(degree: int, cutoff: float, power: int) -> RadialShell:
    """R = N r^l (1 - r / rc)^power, which for power 1 ends with a slope, as those of SIESTA do."""
    mesh = np.linspace(0.0, cutoff, 400)
    values, slopes = (1 - mesh / cutoff) ** power, -power / cutoff * (1 - mesh / cutoff) ** (power - 1)
    shell = RadialShell(degree, mesh, values, slopes, cutoff, degree)
    norm = math.sqrt(shell.norm)
    return RadialShell(degree, mesh, values / norm, slopes / norm, cutoff, degree)


def test_functions_that_end() -> None:
    """Along z, by Gauss quadrature in the spherical coordinates of the first atom; the angle about z is exact."""
    first, second = hard_shell(1, 3.0, 2), hard_shell(2, 2.5, 1)
    shells = {6: RadialShells("first", 6, (first,)), 14: RadialShells("second", 14, (second,))}
    distances = [0.7, 2.0, 4.0, 5.49, 5.51]
    vectors = torch.tensor([[0, 0, d] for d in distances], dtype=torch.float64) * ANGSTROM_PER_BOHR
    blocks = TwoCentreOverlaps(shells).blocks(vectors, 6, 14).numpy()

    r, weights = (
        1.5 * (1 + x) if n == 0 else 1.5 * x for n, x in enumerate(np.polynomial.legendre.leggauss(300))
    )
    nodes, node_weights = np.polynomial.legendre.leggauss(24)
    for d, block in zip(distances, blocks, strict=True):
        # The second sphere cuts that of radius r at this cosine, from which to 1 the integrand is smooth.
        half = (1 - np.clip((r**2 + d**2 - 2.5**2) / (2 * r * d), -1, 1))[:, None] / 2
        cosine = 1 - half * (1 - nodes)
        sine = np.sqrt(1 - cosine**2)
        a = np.stack([r[:, None] * sine, 0 * sine, r[:, None] * cosine], axis=-1).reshape(-1, 3)
        b = a - np.array([0.0, 0.0, d])
        ya, yb = (
            spherical_harmonics(torch.from_numpy(x), 2).numpy() / math.sqrt(4 * math.pi) for x in (a, b)
        )
        radial = first(np.linalg.norm(a, axis=1)) * second(np.linalg.norm(b, axis=1))
        volume = ((weights * r**2)[:, None] * half * node_weights).ravel()
        literal = np.zeros((3, 5))
        literal[1, 2] = 2 * math.pi * np.sum(volume * radial * ya[2] * yb[6])
        literal[0, 1] = literal[2, 3] = math.pi * np.sum(volume * radial * ya[3] * yb[7])
        np.testing.assert_allclose(block, literal, rtol=0, atol=3e-7)
    assert (blocks[-1] == 0).all()


def test_beyond_the_cutoffs_and_unknown_elements(overlaps: TwoCentreOverlaps) -> None:
    far = torch.tensor([[14.001, 0, 0], [9.0, 9.0, 9.0], [1e6, 0, 0]], dtype=torch.float64)
    assert (overlaps.blocks(far * ANGSTROM_PER_BOHR, 6, 14) == 0).all()
    with pytest.raises(BasisError, match=r"atomic number 42 has no basis file; the others are \[6, 14\]"):
        overlaps.blocks(VECTORS, 42, 6)
    for largest in (0.0, float("nan"), 1e4):
        with pytest.raises(BasisError, match=r"give at least one element and a momentum between"):
            TwoCentreOverlaps(overlaps.shells, largest)


def test_derivatives(overlaps: TwoCentreOverlaps) -> None:
    vectors, step = VECTORS * ANGSTROM_PER_BOHR, 1e-4
    derivatives = overlaps.derivatives(vectors, 6, 14, "openmx")
    assert (derivatives[:, 0] == 0).all()
    for axis in range(3):
        moved = step * torch.eye(3, dtype=torch.float64)[axis]
        plus, minus = (overlaps.blocks(vectors + sign * moved, 6, 14, "openmx") for sign in (1, -1))
        torch.testing.assert_close(derivatives[axis, 1:], (plus - minus)[1:] / (2 * step), rtol=0, atol=2e-7)


CRYSTAL_SHELLS = {42: (0, 0, 1, 2), 16: (0, 1)}


@pytest.fixture(scope="module")
def crystal_overlaps(tmp_path_factory: pytest.TempPathFactory) -> TwoCentreOverlaps:
    folder = tmp_path_factory.mktemp("crystal")
    shells = [GaussianShell(0, 0.3), GaussianShell(0, 0.8), GaussianShell(1, 0.4), GaussianShell(2, 0.5)]
    write_pao(folder, "Mo", shells, points=600)
    write_pao(folder, "S", shells, points=600)
    read = {z: read_basis_file(folder / name) for z, name in ((42, "Mo7.0.pao"), (16, "S7.0.pao"))}
    return TwoCentreOverlaps({z: one.select(CRYSTAL_SHELLS[z]) for z, one in read.items()}, 16.0)


def test_crystal(crystal_overlaps: TwoCentreOverlaps) -> None:
    """Entries in the order of `Structure`: hermitian and positive, and each block is that of its pair."""
    numbers, positions, lattice, _ = MOS2
    edges = np.array(
        [
            (*cell, i, j)
            for cell in product(range(-3, 4), range(-3, 4), (0,))
            for i, j in product(range(3), repeat=2)
            if np.linalg.norm(positions[j] + np.array(cell) @ lattice - positions[i]) < 14 * ANGSTROM_PER_BOHR
        ]
    )
    edges = edges[edge_order(edges)]
    structure = Structure("MoS2", numbers, positions, lattice, CRYSTAL_SHELLS, True, None, edges)
    basis = structure.basis_of("overlap")
    geometry = [torch.from_numpy(x) for x in (positions, lattice)]
    entries = crystal_overlaps.entries(numbers, *geometry, edges, basis).numpy()
    structure = Structure(
        "MoS2", numbers, positions, lattice, CRYSTAL_SHELLS, True, None, edges, None, entries
    )
    assert hermiticity_error(structure, "overlap")[0] < 1e-13
    for k in ([0.0, 0.0, 0.0], [1 / 3, 1 / 3, 0.0], [0.5, 0.1, 0.2]):
        smallest = np.linalg.eigvalsh(BlochMatrix(structure, "overlap").at(np.array(k)).toarray())[0]
        assert 0.001 < smallest < 1
    edge, block = edges[40], structure.blocks("overlap")[40]
    vector = positions[edge[4]] + edge[:3] @ lattice - positions[edge[3]]
    a, b = numbers[edge[3:]].tolist()
    alone = crystal_overlaps.blocks(torch.from_numpy(vector)[None], a, b, "openmx")[0].numpy()
    np.testing.assert_allclose(block, alone, rtol=0, atol=1e-14)


def test_positions_have_gradients(crystal_overlaps: TwoCentreOverlaps) -> None:
    """First and second derivatives by positions and lattice, with on-site blocks among the pairs."""
    numbers, positions, lattice, edges = CHAIN
    basis = OrbitalBasis.openmx({16: CRYSTAL_SHELLS[16]})
    inputs = [torch.from_numpy(x).clone().requires_grad_() for x in (positions, lattice)]

    def energy(positions: torch.Tensor, lattice: torch.Tensor) -> torch.Tensor:
        entries = crystal_overlaps.entries(numbers, positions, lattice, edges, basis)
        return (entries**2 * torch.linspace(1, 2, len(entries), dtype=entries.dtype)).sum()

    assert torch.autograd.gradcheck(energy, inputs, atol=1e-6)
    assert torch.autograd.gradgradcheck(energy, inputs, atol=1e-4)


def test_entries_need_the_shells_of_the_basis(crystal_overlaps: TwoCentreOverlaps) -> None:
    numbers, *_ = CHAIN
    geometry = [torch.from_numpy(x) for x in CHAIN[1:3]]
    for basis in (OrbitalBasis.openmx({16: (0, 0, 1)}), OrbitalBasis.openmx({16: (0, 1)}, spinful=True)):
        with pytest.raises(BasisError, match=r"overlaps of atomic number 16: the shells \(0, 1\) do not fit"):
            crystal_overlaps.entries(numbers, *geometry, CHAIN[3], basis)


def test_a_sharp_cut_keeps_the_overlap_positive(overlaps: TwoCentreOverlaps) -> None:
    """A code that cuts its integrals has a norm below 1."""
    cut = TwoCentreOverlaps(overlaps.shells, 1.5).blocks(VECTORS[:1], 6, 6)[0]
    assert (cut.diagonal() < 0.99).all()
    assert torch.linalg.eigvalsh(cut)[0] > 0


def test_bessel() -> None:
    """Against Bessel functions of half-integer order, sqrt(pi / 2x) J_(l + 1/2)(x), with 30 digits."""
    x = np.concatenate([[0.0], np.geomspace(1e-8, 500, 400)])
    with mpmath.workdps(30):
        literal = np.array(
            [
                [
                    float(degree == 0),
                    *(mpmath.sqrt(mpmath.pi / (2 * y)) * mpmath.besselj(degree + 0.5, y) for y in x[1:]),
                ]
                for degree in range(11)
            ],
            dtype=float,
        )
    np.testing.assert_allclose(spherical_bessel(x, 10), literal, rtol=1e-9, atol=1e-15)
