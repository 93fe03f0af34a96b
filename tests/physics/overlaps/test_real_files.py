"""Overlaps against those that OpenMX, SIESTA and ABACUS computed, where files of real runs are at hand.

The files belong to other projects and are not in the repository. They are looked for in ``TRACEGRAD_REAL_FILES``,
else in the folder ``shared/data`` beside the repository.
"""

import gzip
import os
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from tracegrad.data.crystal_files.deeph import read_structure
from tracegrad.data.crystals.bloch_matrix import BlochMatrix
from tracegrad.data.crystals.structure import Structure, edge_order
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.neighbours import edges_within_range
from tracegrad.physics.overlaps.basis_files import read_basis_file
from tracegrad.physics.overlaps.radial_shells import RadialShells
from tracegrad.physics.overlaps.two_centre import TwoCentreOverlaps
from tracegrad.units import ANGSTROM_PER_BOHR

FILES = Path(os.environ.get("TRACEGRAD_REAL_FILES", Path(__file__).parents[4] / "shared" / "data"))
pytestmark = [
    pytest.mark.skipif(not (FILES / "dft").is_dir(), reason="needs files of real runs"),
    pytest.mark.slow,
]


def unpacked(path: Path, folder: Path) -> RadialShells:
    plain = folder / path.name.removesuffix(".gz")
    plain.write_bytes(gzip.decompress(path.read_bytes()))
    return read_basis_file(plain)


@pytest.mark.parametrize(
    ("name", "structures"),
    [
        ("C6.0-s2p2d1", ["openmx_graphene_1x1", "openmx_bilayer_AA_1x1"]),
        ("Bi8.0-s3p2d2", ["openmx_bismuthene_soc_1x1", "light_bismuthene_soc_2x1_00"]),
    ],
)
def test_openmx(name: str, structures: list[str], tmp_path: Path) -> None:
    basis = OrbitalBasis.openmx([name])
    (number,) = basis.elements
    file = FILES / "dft" / "openmx_basis" / f"{name.split('-')[0]}.pao.gz"
    overlaps = TwoCentreOverlaps({number: unpacked(file, tmp_path).select(basis.shells[number])})
    for folder in structures:
        structure = read_structure(FILES / "deeph" / folder, overlap=True)
        geometry = [torch.from_numpy(x) for x in (structure.positions, structure.lattice)]
        entries = overlaps.entries(
            structure.numbers, *geometry, structure.edges, structure.basis_of("overlap")
        )
        np.testing.assert_allclose(entries, structure.overlap, rtol=0, atol=1e-6)
        structure = replace(structure, overlap=entries.numpy())
        smallest = np.linalg.eigvalsh(
            BlochMatrix(structure, "overlap").at(np.array([0.1, 0.2, 0.0])).toarray()
        )
        assert smallest[0] > 1e-4


def siesta(folder: Path, scratch: Path) -> tuple[TwoCentreOverlaps, np.ndarray, np.ndarray, np.ndarray]:
    """Overlaps of the basis of a run, its lattice and positions (bohr), and atomic numbers."""
    shells = [unpacked(path, scratch) for path in folder.glob("*.ion.xml.gz")]
    lines = next(folder.glob("*.XV")).read_text().splitlines()
    lattice, atoms = (
        np.array([list(map(float, line.split())) for line in part]) for part in (lines[:3], lines[4:])
    )
    overlaps = TwoCentreOverlaps({one.number: one for one in shells})
    return overlaps, lattice[:, :3], atoms[:, 2:5], atoms[:, 1].astype(int)


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("Bi_hexagonal_soc", 2e-6),
        ("Pt2_soc", 5e-6),
        ("Si_hsx2_intel", 1e-6),
        ("SrTiO3_polarized", 5e-6),
        ("graphene_electrode", 1e-6),
        ("H2O_gamma_folded", 1e-6),
    ],
)
def test_siesta(name: str, tolerance: float, tmp_path: Path) -> None:
    """The blocks of ``H2O_gamma_folded`` are sums over all cells."""
    folder = FILES / "dft" / "siesta" / name
    overlaps, lattice, positions, numbers = siesta(folder, tmp_path)
    reference = np.load(folder / "reference_blocks.npz")
    images = np.array(list(product(range(-2, 3), repeat=3))) if name.endswith("folded") else np.zeros((1, 3))
    for n, (*cell, i, j) in enumerate(reference["pairs"].tolist()):
        vectors = positions[j] - positions[i] + (images + cell) @ lattice
        of_cells = overlaps.blocks(
            torch.from_numpy(vectors) * ANGSTROM_PER_BOHR, int(numbers[i]), int(numbers[j])
        )
        np.testing.assert_allclose(of_cells.sum(0), reference[f"S{n:03d}"], rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", ["SrTiO3_polarized", "Si_hsx2_intel"])
def test_smallest_eigenvalues(name: str, tmp_path: Path) -> None:
    """Of S(k) of a whole structure; those of SrTiO3 are as small as 8e-6."""
    folder = FILES / "dft" / "siesta" / name
    overlaps, lattice, positions, numbers = siesta(folder, tmp_path)
    lattice, positions = lattice * ANGSTROM_PER_BOHR, positions * ANGSTROM_PER_BOHR
    basis = OrbitalBasis.openmx({number: shells.degrees for number, shells in overlaps.shells.items()})
    reach = replace(basis, radii={number: shells.radius for number, shells in overlaps.shells.items()})
    edges = edges_within_range(numbers, positions, lattice, np.ones(3, dtype=bool), reach)
    edges = edges[edge_order(edges)]
    geometry = [torch.from_numpy(x) for x in (positions, lattice)]
    entries = overlaps.entries(numbers, *geometry, edges, basis).numpy()
    bare = Structure(name, numbers, positions, lattice, dict(basis.shells), False, None, edges)
    matrix = BlochMatrix(replace(bare, overlap=entries), "overlap")
    reference = np.load(folder / "reference_bands.npz")
    smallest = [np.linalg.eigvalsh(matrix.at(k).toarray())[0] for k in reference["kpoints"]]
    np.testing.assert_allclose(smallest, reference["smallest_overlap_eigenvalue"], rtol=1e-4)


def test_abacus() -> None:
    """A run of an old version, which cuts its integrals at k = 4.5."""
    folder = FILES / "dft" / "abacus" / "Si2_old"
    shells = read_basis_file(next(folder.glob("*.orb")))
    reference = np.load(folder / "reference_two_centre.npz")
    overlaps = TwoCentreOverlaps({14: shells}, float(reference["k_max"]))
    vectors = torch.from_numpy(reference["vector_bohr"]) * ANGSTROM_PER_BOHR
    # In the file: m = 0, 1, -1, 2, -2, with the sign (-1)^m.
    order = [(m, (-1) ** m) for m in (0, 1, -1, 2, -2)]
    places, signs, start = [], [], 0
    for degree in shells.degrees:
        places += [start + degree + m for m, _ in order[: 2 * degree + 1]]
        signs += [sign for _, sign in order[: 2 * degree + 1]]
        start += 2 * degree + 1
    blocks = overlaps.blocks(vectors, 14, 14).numpy()[:, places][:, :, places] * np.outer(signs, signs)
    code = np.stack([reference[f"code_{n:03d}"] for n in range(len(vectors))])
    np.testing.assert_allclose(blocks, code, rtol=0, atol=1e-8)
