"""SQLite files of nablaDFT, and files that are something else."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.data.databases import alter
from tests.data.molecules import files
from tracegrad.data.molecules.nabladft import ELEMENTS, NablaDFTDatabase
from tracegrad.errors import BasisError, DataError
from tracegrad.hamiltonian.basis import OrbitalBasis


def test_rows(drug_path, drugs):
    """Single precision, up to 2e-5 hartree for the 1s level of Br."""
    database = NablaDFTDatabase(drug_path)
    assert len(database) == len(drugs)
    assert database.elements == (1, 6, 7, 8, 9, 16, 17, 35)
    assert database.atom_counts.tolist() == [len(numbers) for numbers, *_ in drugs]
    for row, (numbers, positions, *matrices) in enumerate(drugs):
        molecule = database[row]
        assert np.array_equal(molecule.numbers, numbers)
        np.testing.assert_allclose(molecule.positions, positions, rtol=0, atol=5e-7)
        assert molecule.hamiltonian.dtype == molecule.positions.dtype == np.float64
        stored = database.stored_integrals(row)
        read = (molecule.hamiltonian, stored["int1e_ovlp"], stored["core"])
        for array, matrix in zip(read, matrices, strict=True):
            np.testing.assert_allclose(array, matrix, rtol=6e-8, atol=0)
    assert database.check_distances(np.arange(len(drugs))) is None


def test_the_union_layout_of_its_elements():
    """Bromine has the most shells: 5 s, 4 p and 3 d."""
    basis = OrbitalBasis.def2_svp(ELEMENTS)
    assert basis.dim == 32
    assert [basis.sizes[z] for z in ELEMENTS] == [5, 14, 14, 14, 14, 18, 18, 32]


def column(name: str, value: object):
    return lambda path: alter(path, f"UPDATE data SET {name} = ? WHERE id = 2", value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (column("H", b"\x00" * 40), r"column H is 40 bytes, but 10404 bytes are needed for <f4\[51, 51\]"),
        (column("H", None), "column H is NoneType"),
        (column("R", b"\x00" * 47), "column R is 47 bytes, but 48 bytes"),
        (column("Z", b""), "column Z is 0 bytes"),
        (
            column("Z", np.array([8, 53, 1, 1], "<i4").tobytes()),
            r"atomic numbers \[53\], for which no def2-SVP",
        ),
        (column("R", np.zeros(12, "<f4").tobytes()), "column R: atoms 1 and 2 .* are 0 angstrom apart"),
        (column("H", np.full(51 * 51, np.nan, "<f4").tobytes()), "NaN or infinite numbers in column H"),
    ],
)
def test_damaged_rows(tmp_path, drug_path, damage, message):
    path = Path(shutil.copy(drug_path, tmp_path / "a.db"))
    damage(path)
    database = NablaDFTDatabase(path)
    database[1], database[3]
    with pytest.raises(DataError, match=message) as caught:
        database[2]
    assert str(caught.value).startswith(f"{path}: row 2: ")


def test_positions_in_angstrom_are_named(tmp_path):
    numbers, positions, *matrices = files.sample([6, 1, 1, 1, 1], 0, files.OMEGA_B97X_D)
    row = (numbers, positions * 0.529177, *matrices)
    database = NablaDFTDatabase(files.write_nabladft(tmp_path / "a.db", [row]))
    with pytest.raises(DataError, match=r"column R: .*read in angstrom \(a database of nablaDFT has bohr\)"):
        database[0]


def test_another_functional(tmp_path):
    path = files.write_nabladft(tmp_path / "a.db", [files.sample([6, 8], 0), files.sample([1, 1], 1)])
    database = NablaDFTDatabase(path)
    with pytest.raises(DataError, match=r"with omegaB97X-D; this Hamiltonian is of another functional"):
        database[0]


def test_another_basis_set(tmp_path, drug_path):
    path = Path(shutil.copy(drug_path, tmp_path / "a.db"))
    shells = np.array([0, 0, 0, 1, 1, 1, 2, 2], "<i4").tobytes()
    alter(path, "UPDATE basisset SET orbitals = ? WHERE Z = 7", shells)
    with pytest.raises(
        BasisError, match=r"gives N shells of degrees \[0, .*\], but def2-SVP has \[0, 0, 0, 1, 1, 2\]"
    ):
        NablaDFTDatabase(path)


def test_other_files(tmp_path, drug_path, water_path, stable_path):
    with pytest.raises(
        DataError, match="no such database; give the path of a Hamiltonian database of nablaDFT"
    ):
        NablaDFTDatabase(tmp_path / "absent.db")
    with pytest.raises(
        DataError, match=r"not a Hamiltonian database of nablaDFT: .*energy databases have none"
    ):
        NablaDFTDatabase(water_path)
    with pytest.raises(DataError, match="not a Hamiltonian database of nablaDFT"):
        NablaDFTDatabase(stable_path)
    cut = tmp_path / "cut.db"
    cut.write_bytes(drug_path.read_bytes()[:20_000])
    with pytest.raises(DataError, match="not a readable SQLite database"):
        list(NablaDFTDatabase(cut))
