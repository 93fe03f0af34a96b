"""ASE databases of SchNOrb's MD17: every form of their rows, and files that are something else."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from ase.db import connect

from tests.data.databases import alter
from tests.data.molecules import files
from tracegrad.data.molecules.ase_rows import read_arrays
from tracegrad.data.molecules.md17 import MOLECULES, MD17Database
from tracegrad.elements import formula
from tracegrad.errors import BasisError, DataError


def assert_sample(database: MD17Database, row: int, sample: files.Sample, tolerance: float = 0.0) -> None:
    molecule = database[row]
    numbers, positions, hamiltonian, overlap, _ = sample
    assert molecule.row == row
    assert np.array_equal(molecule.numbers, numbers)
    assert np.array_equal(molecule.positions, positions)
    assert molecule.hamiltonian.dtype == np.float64
    np.testing.assert_allclose(molecule.hamiltonian, hamiltonian, rtol=0, atol=tolerance)
    (stored,) = database.stored_integrals(row).values()
    np.testing.assert_allclose(stored, overlap, rtol=0, atol=tolerance)


def test_rows(water_path, waters):
    database = MD17Database(water_path)
    assert len(database) == len(waters)
    assert database.elements == (1, 8)
    assert database.atom_counts.tolist() == [3] * len(waters)
    for copy in (database, pickle.loads(pickle.dumps(database))):
        for row, sample in enumerate(waters):
            assert_sample(copy, row, sample)
    assert database.check_distances(np.arange(len(waters))) is None


@pytest.mark.parametrize("form", ["json", "base64"])
def test_older_forms_of_rows(tmp_path, form):
    samples = [files.sample([6, 8, 1, 1], 1), files.sample([7, 1], 2)]
    database = MD17Database(files.write_md17(tmp_path / "a.db", samples, form))
    for row, sample in enumerate(samples):
        assert_sample(database, row, sample)


def test_single_precision(tmp_path, waters):
    """Two triangles that were rounded separately differ in the last digit."""
    numbers, positions, hamiltonian, *integrals = waters[0]
    uneven = np.triu(hamiltonian * (1 + 1e-7)) + np.tril(hamiltonian, -1)
    samples = [waters[0], (numbers, positions, uneven, *integrals)]
    database = MD17Database(files.write_md17(tmp_path / "a.db", samples, dtype="float32"))
    for row, sample in enumerate(samples):
        assert_sample(database, row, sample, 5e-6)


def test_the_molecule_is_compared(water_path):
    database = MD17Database(water_path)
    database.require_molecule("water")
    with pytest.raises(DataError, match=r"asks for ethanol \(C C O H H H H H H\), but .* H2O \(O H H\)"):
        database.require_molecule("ethanol")


@pytest.mark.parametrize("name", MOLECULES)
def test_molecules_of_the_published_files(name):
    atoms = {"water": "H2O", "ethanol": "C2H6O", "malondialdehyde": "C3H4O2", "uracil": "C4H4N2O2"}
    assert formula(MOLECULES[name]) == atoms[name]


def minimal_basis(path: Path) -> None:
    """As MD17's aspirin: one function for H, five for heavier atoms."""
    h = np.zeros((7, 7))
    text = files.encoded({"hamiltonian": h, "overlap": h}, "json")
    alter(path, "UPDATE systems SET data = ? WHERE id = 3", text)


def set_data(value: object):
    return lambda path: alter(path, "UPDATE systems SET data = ? WHERE id = 3", value)


def encoded(**arrays: np.ndarray) -> str:
    return files.encoded(arrays, "json")


ASYMMETRIC = np.triu(np.ones((24, 24)))
DAMAGE = [
    (minimal_basis, BasisError, "quasi-atomic minimal basis of MD17's aspirin file"),
    (
        set_data(encoded(hamiltonian=np.eye(30))),
        BasisError,
        r"\[30, 30\], but H2O has 24 orbitals in def2-SVP",
    ),
    (set_data(encoded(hamiltonian=ASYMMETRIC)), DataError, "data.hamiltonian is not symmetric"),
    (set_data(encoded(hamiltonian=np.full((24, 24), np.nan))), DataError, "NaN or infinite numbers in data"),
    (set_data(encoded(hamiltonian=27.2 * np.eye(24))), DataError, "the 1s level of atom 1"),
    (set_data(encoded(energy=np.eye(1))), DataError, "column data: hamiltonian missing, it has energy"),
    (
        set_data('{"hamiltonian": {"__ndarray__": [[1], "object", [0]]}}'),
        DataError,
        "an array of object, not of",
    ),
    (set_data('{"hamiltonian": {"__ndarray__": [[24, 24], "float64", [0]]}}'), DataError, "cannot reshape"),
    (set_data('{"hamiltonian": 3}'), DataError, "hamiltonian is no array"),
    (set_data("[1]"), DataError, "holds list, not named values"),
    (set_data("{"), DataError, "column data: "),
    (set_data("[" * 100_000), DataError, "column data: "),
    (set_data('{"hamiltonian": {"__ndarray__": [[1], "float64", [{}]]}}'), DataError, "column data: "),
    (set_data(b"\x00"), DataError, "1 bytes are no data of ASE"),
    (set_data(b"\xff" * 20), DataError, "column data: "),
    (set_data(None), DataError, "column data is NoneType"),
    (
        lambda path: alter(path, "UPDATE systems SET numbers = x'00'"),
        DataError,
        "column numbers is 1 byte",
    ),
    (
        lambda path: alter(path, "UPDATE systems SET positions = x'00'"),
        DataError,
        "column positions is 1 bytes, but 72 bytes",
    ),
]


@pytest.mark.parametrize(("damage", "error", "message"), DAMAGE)
def test_damaged_rows(tmp_path, water_path, damage, error, message):
    path = Path(shutil.copy(water_path, tmp_path / "a.db"))
    damage(path)
    with pytest.raises(error, match=message) as caught:
        MD17Database(path)[2]
    assert str(caught.value).startswith(f"{path}: row 2: ")
    assert "\n" not in str(caught.value)


def test_another_functional(tmp_path):
    """As MD17's second file of ethanol, which is Hartree-Fock."""
    samples = [files.sample([6, 6, 8, 1, 1], 0, files.HARTREE_FOCK)]
    database = MD17Database(files.write_md17(tmp_path / "a.db", samples))
    with pytest.raises(
        DataError, match=r"1s level of atom 3 \(O\) is -20.5 .* with PBE; .* another functional"
    ):
        database[0]


def test_other_files(tmp_path, drug_path, water_path):
    with pytest.raises(DataError, match=r"no such database; give the path of a \.db file of SchNOrb"):
        MD17Database(tmp_path / "absent.db")
    with pytest.raises(DataError, match=r"not an ASE database: tables .*'data'"):
        MD17Database(drug_path)
    cut = tmp_path / "cut.db"
    cut.write_bytes(water_path.read_bytes()[:40_000])
    with pytest.raises(DataError, match="not a readable SQLite database"):
        MD17Database(cut)[9]


def test_bytes_are_those_of_ase(water_path, waters):
    """The same numbers as by ASE."""
    row = connect(water_path).get(id=4)
    (blob,) = MD17Database(water_path).file.query("SELECT data FROM systems WHERE id = 4")[0]
    for array, name in zip(read_arrays(blob, ["overlap", "forces"]), ("overlap", "forces"), strict=True):
        assert np.array_equal(array, row.data[name])
