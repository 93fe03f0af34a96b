from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import eigh

from tests.physics.exports.conftest import structure
from tracegrad.data.crystals.bloch_matrix import BlochMatrix
from tracegrad.errors import DataError
from tracegrad.physics.exports import wannier90
from tracegrad.physics.exports.orthogonal import orthogonalised
from tracegrad.physics.exports.wannier90 import write_wannier90

K = np.array([0.13, -0.37, 0.0])


def read_hr(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Cells and matrices of an _hr.dat file, number by number."""
    words = path.read_text().split("\n", 1)[1].split()
    size, count = int(words[0]), int(words[1])
    weights = list(map(int, words[2 : 2 + count]))
    cells, matrices = [], []
    rest = iter(words[2 + count :])
    for weight in weights:
        matrix = np.zeros((size, size), dtype=complex)
        for _ in range(size**2):
            cell = [int(next(rest)) for _ in range(3)]
            i, j = int(next(rest)) - 1, int(next(rest)) - 1
            matrix[i, j] = (float(next(rest)) + 1j * float(next(rest))) / weight
        cells.append(cell)
        matrices.append(matrix)
    assert not list(rest)
    return np.array(cells), np.array(matrices)


def at(path: Path, k: np.ndarray) -> np.ndarray:
    cells, matrices = read_hr(path)
    return np.tensordot(np.exp(2j * np.pi * (cells @ k)), matrices, axes=1)


def exact(crystal, k: np.ndarray) -> np.ndarray:
    h, s = (BlochMatrix(crystal, name).at(k).toarray() for name in ("hamiltonian", "overlap"))
    return eigh(h, s, eigvals_only=True)


def test_the_files_have_the_bands(crystal, tmp_path):
    files = write_wannier90(crystal, tmp_path, "a")
    assert files == ["a_hr.dat", "a.win", "a_centres.xyz", "a_overlap_hr.dat"]
    bands = eigh(at(tmp_path / "a_hr.dat", K), at(tmp_path / "a_overlap_hr.dat", K), eigvals_only=True)
    np.testing.assert_allclose(bands, exact(crystal, K), rtol=0, atol=1e-9)


def test_every_element_is_in_its_place(tmp_path):
    crystal = structure(spinful=True)
    write_wannier90(crystal, tmp_path, "a")
    cells, matrices = read_hr(tmp_path / "a_hr.dat")
    # Mo s2p1d1 has 10 orbitals in a spin, S s1p1 4. s s | x y z | z2 x2-y2 xy xz yz in the structure,
    # s s | z x y | z2 xz yz x2-y2 xy in the file, each with spin up and down.
    in_file = {42: [0, 1, 4, 2, 3, 5, 8, 9, 6, 7], 16: [0, 3, 1, 2]}
    starts = [0, 20, 28]
    for edge, block in zip(crystal.edges.tolist(), crystal.blocks("hamiltonian"), strict=True):
        *cell, i, j = edge
        (position,) = np.flatnonzero((cells == cell).all(1))
        rows, columns = (in_file[int(crystal.numbers[atom])] for atom in (i, j))
        for a, row in enumerate(rows):
            for b, column in enumerate(columns):
                for s in range(2):
                    for t in range(2):
                        written = matrices[position, starts[i] + 2 * a + s, starts[j] + 2 * b + t]
                        true = block[row + s * len(rows), column + t * len(columns)]
                        assert abs(written - true) < 1e-11


def test_geometry_and_projections(tmp_path):
    crystal = structure()
    write_wannier90(crystal, tmp_path, "a")
    lines = (tmp_path / "a.win").read_text().splitlines()
    start = lines.index("ang") + 1
    cell = np.array([line.split() for line in lines[start : start + 3]], dtype=float)
    np.testing.assert_allclose(cell, crystal.lattice, atol=1e-11)
    assert "num_wann = 18" in lines
    assert sum(line.endswith(":l=0:r=2") for line in lines) == 1
    assert sum(":l=1:r=1" in line for line in lines) == 3
    centres = (tmp_path / "a_centres.xyz").read_text().splitlines()
    assert centres[0] == "21"
    orbitals = np.array([line.split()[1:] for line in centres[2:20]], dtype=float)
    np.testing.assert_allclose(orbitals, np.repeat(crystal.positions, [10, 4, 4], axis=0), atol=1e-11)
    assert [line.split()[0] for line in centres[20:]] == ["Mo", "S", "S"]


def test_orthogonal_orbitals_need_no_overlap(crystal, tmp_path):
    found = orthogonalised(crystal, [5, 5, 1])
    assert write_wannier90(crystal, tmp_path, "a", found) == ["a_hr.dat", "a.win", "a_centres.xyz"]
    k = np.array([0.4, 0.2, 0.0])  # a point of the mesh
    bands = np.linalg.eigvalsh(at(tmp_path / "a_hr.dat", k))
    np.testing.assert_allclose(bands, exact(crystal, k), rtol=0, atol=1e-9)
    first = (tmp_path / "a_hr.dat").read_text().splitlines()[0]
    assert f"mesh 5 x 5 x 1, bands within {found.error:.1e} eV" in first


def test_without_an_overlap_only_h_is_written(tmp_path):
    files = write_wannier90(replace(structure(), overlap=None), tmp_path, "a")
    assert files == ["a_hr.dat", "a.win", "a_centres.xyz"]


def test_a_file_that_would_be_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(wannier90, "MOST_NUMBERS", 1000)
    with pytest.raises(DataError, match=r"a_hr.dat: 18 orbitals in 7 cells make 2,268 lines"):
        write_wannier90(structure(), tmp_path, "a")


def test_sisl_reads_the_files(crystal, tmp_path):
    sisl = pytest.importorskip("sisl")
    found = orthogonalised(crystal, [5, 5, 1])
    write_wannier90(crystal, tmp_path, "a", found)
    read = sisl.get_sile(tmp_path / "a.win").read_hamiltonian(cutoff=0.0, dtype=np.complex128)
    np.testing.assert_allclose(read.eigh(K), np.linalg.eigvalsh(found.at(K)), rtol=0, atol=1e-9)
