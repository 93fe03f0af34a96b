"""Output of ABACUS against blocks and bands of independent readers, where files of real runs are at hand.

The files belong to other projects and are not in the repository. They are looked for in ``TRACEGRAD_REAL_FILES``,
else in the folder ``shared/data`` beside the repository.
"""

import os
import shutil
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import eigh

from tracegrad.data.crystal_files.abacus.reader import ABACUSReader
from tracegrad.data.crystal_files.abacus.writer import write_hrs
from tracegrad.data.crystal_files.database import CrystalDatabase
from tracegrad.data.crystals.bloch_matrix import BlochMatrix
from tracegrad.data.crystals.conversion_checks import check_bands, check_matrices
from tracegrad.data.crystals.structure import Structure
from tracegrad.hamiltonian.basis import CONVENTIONS
from tracegrad.units import ANGSTROM_PER_BOHR

FILES = Path(os.environ.get("TRACEGRAD_REAL_FILES", Path(__file__).parents[4] / "shared" / "data"))
ABACUS = FILES / "dft" / "abacus"
pytestmark = [
    pytest.mark.skipif(not ABACUS.is_dir(), reason="needs files of real runs"),
    pytest.mark.slow,
]
SHELLS = {
    "MoS2_310": None,
    "MoS2_rewritten_new": ["Mo-s4p2d2f1", "S-s2p2d1"],
    "Si2_old": None,
    "H2O_new": ["H-s1", "O-s1p1"],
    "Si2_new_nspin1": ["Si-s1p1"],
    "Si2_new_nspin2": ["Si-s1p1"],
    "C_nspin4_old": None,
    "C_nspin4_rewritten_new": ["C-s2p2d1"],
}
# The logs of two runs were not kept: what the reader takes from one.
LOG = """
                  lattice constant (Bohr) = {constant}
 READING ATOM TYPE 1
                               atom label = {label}
                      L=0, number of zeta = 2
                      L=1, number of zeta = 2
                      L=2, number of zeta = 1
             number of atom for this type = {count}

DIRECT COORDINATES
    atom                   x                   y                   z     mag
{atoms}

 Lattice vectors: (Cartesian coordinate: in unit of a_0)
{lattice}
"""
LOST = {
    "Si2_old": LOG.format(
        constant=10.2,
        label="Si",
        count=2,
        atoms="taud_Si1 0.0 0.0 0.0 0.0\ntaud_Si2 0.25 0.25 0.25 0.0",
        lattice=" +0.5 +0.5 +0\n +0.5 +0 +0.5\n +0 +0.5 +0.5",
    ),
    "C_nspin4_old": LOG.format(
        constant=1.89035917,
        label="C",
        count=1,
        atoms="taud_C1 0 0 0 0",
        lattice=" +10 +0 +0\n 0 +10 +0\n 0 0 +10",
    ),
}


def opened(name: str, scratch: Path, spin: str | None = None, *, overlap: bool = True) -> CrystalDatabase:
    folder = ABACUS / name
    if name in LOST:
        folder = Path(shutil.copytree(folder, scratch / name, copy_function=shutil.copyfile))
        output = next(folder.glob("OUT.*"))
        for path in (folder, output):
            path.chmod(0o755)
        (output / "running_scf.log").write_text(LOST[name])
    shells = SHELLS[name]
    return CrystalDatabase(folder, overlap=overlap, spin=spin, reader=partial(ABACUSReader, shells=shells))


def standard(structure: Structure, block: np.ndarray, i: int, j: int) -> np.ndarray:
    """A block with the orbitals of a shell in the order m = -l .. l."""
    places = []
    for atom in (i, j):
        first, own = 0, []
        for degree in structure.shells[int(structure.numbers[atom])]:
            own += [first + p for p in CONVENTIONS["openmx"].get(degree, range(2 * degree + 1))]
            first += 2 * degree + 1
        places.append(own)
    return block[places[0]][:, places[1]]


@pytest.mark.parametrize(
    ("name", "reference", "spin"),
    [
        ("MoS2_310", "MoS2_310", None),
        ("MoS2_rewritten_new", "MoS2_310", None),
        ("Si2_old", "Si2_old", None),
        ("H2O_new", "H2O_new", None),
        ("Si2_new_nspin1", "Si2_new_nspin1", None),
        ("Si2_new_nspin2", "Si2_new_nspin2", "up"),
        ("Si2_new_nspin2", "Si2_new_nspin2", "down"),
    ],
)
def test_blocks(name: str, reference: str, spin: str | None, tmp_path: Path) -> None:
    blocks = np.load(ABACUS / reference / "reference_blocks.npz")
    matrices = {"hamiltonian": f"H{{:03d}}_{int(spin == 'down')}"}
    if "S000" in blocks:
        matrices["overlap"] = "S{:03d}"
    structure = opened(name, tmp_path, spin, overlap="overlap" in matrices)[0]
    place = {tuple(edge): n for n, edge in enumerate(structure.edges.tolist())}
    for matrix, key in matrices.items():
        found = structure.blocks(matrix)
        for n, pair in enumerate(blocks["pairs"].tolist()):
            expected = blocks[key.format(n)]
            if tuple(pair) not in place:  # ABACUS dropped the whole block
                assert np.abs(expected).max() < 1e-6
                continue
            block = standard(structure, found[place[tuple(pair)]], *pair[3:])
            np.testing.assert_allclose(block, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("MoS2_310", "MoS2_310"),
        ("MoS2_rewritten_new", "MoS2_310"),
        ("Si2_old", "Si2_old"),
        ("C_nspin4_old", "C_nspin4_old"),
        ("C_nspin4_rewritten_new", "C_nspin4_old"),
    ],
)
def test_bands(name: str, reference: str, tmp_path: Path) -> None:
    expected = np.load(ABACUS / reference / "reference_bands.npz")
    structure = opened(name, tmp_path)[0]
    matrices = [BlochMatrix(structure, matrix) for matrix in ("hamiltonian", "overlap")]
    assert structure.spinful == name.startswith("C_nspin4")
    for k, levels, smallest in zip(
        expected["kpoints"],
        expected["eigenvalues_eV"][0],
        expected["smallest_overlap_eigenvalue"],
        strict=True,
    ):
        h, s = (matrix.at(k).toarray() for matrix in matrices)
        np.testing.assert_allclose(eigh(h, s, eigvals_only=True), levels, rtol=0, atol=1e-6)
        assert np.linalg.eigvalsh(s)[0] == pytest.approx(smallest, abs=1e-8)


@pytest.mark.parametrize(
    ("name", "spin"),
    [("H2O_new", None), ("Si2_new_nspin1", None), *(("Si2_new_nspin2", spin) for spin in ("up", "down"))],
)
def test_eigenvalues_of_h_alone(name: str, spin: str | None, tmp_path: Path) -> None:
    expected = np.load(ABACUS / name / "reference.npz")
    structure = opened(name, tmp_path, spin, overlap=False)[0]
    hamiltonian = BlochMatrix(structure, "hamiltonian")
    levels = [np.linalg.eigvalsh(hamiltonian.at(k).toarray()) for k in expected["kpoints"]]
    of_spin = expected["eigenvalues_of_H_alone_eV"][int(spin == "down")]
    np.testing.assert_allclose(levels, of_spin, rtol=0, atol=1e-6)


def test_everything_that_a_whole_run_has(tmp_path: Path) -> None:
    """Fermi level, pairs beyond the overlaps, the eigenvalues that it printed, the checks, and the way back."""
    database = opened("MoS2_310", tmp_path)
    start = time.process_time()
    structure = database[0]
    assert time.process_time() - start < 1.0
    assert structure.fermi_level == pytest.approx(-2.3123356452)
    assert structure.lattice[0, 0] == pytest.approx(5.9716 * ANGSTROM_PER_BOHR)
    assert all(finding.passed for finding in check_matrices(structure))
    assert any(
        "114 of 353 pairs have H, up to 6.8e-05 eV" in finding.text for finding in check_matrices(structure)
    )
    bands = database.reader.reference_bands(database.names[0])
    assert bands is not None
    finding = check_bands(structure, bands)
    assert finding is not None
    assert finding.passed
    assert "at most 4.0e-07 eV (23 bands, 3 k)" in finding.text
    write_hrs(structure, tmp_path / "start")
    back = ABACUSReader(tmp_path / "start", ["Mo-s4p2d2f1", "S-s2p2d1"]).read("start", ["hamiltonian"])
    assert np.array_equal(back.edges, structure.edges)
    np.testing.assert_allclose(back.hamiltonian, structure.hamiltonian, rtol=0, atol=1e-9)
    np.testing.assert_allclose(back.positions, structure.positions, atol=1e-9)


@pytest.mark.parametrize("name", ["Si2_old", "C_nspin4_old"])
def test_checks_of_the_others(name: str, tmp_path: Path) -> None:
    assert [one.text for one in check_matrices(opened(name, tmp_path)[0]) if not one.passed] == []
