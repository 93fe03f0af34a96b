"""Rows of databases that are no molecules or have a Hamiltonian in another unit, made from real rows."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from tests.data import databases
from tracegrad.data.loading.datamodule import QH9DataModule, database_path
from tracegrad.data.qh9.database import QH9Database
from tracegrad.errors import DataError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.units import BOHR_PER_ANGSTROM

KEPT = 43  # rows of a copy
FILES = {"stable": "demo_stable.db", "dynamic": "demo_dynamic.db"}


def altered(folder: Path, flavour: str, column: str, change: Callable, rows: slice = slice(None)) -> Path:
    """A copy of an embedded database with another array in a column of some rows."""
    path = Path(shutil.copy(database_path(f"embedded:{FILES[flavour]}"), folder / "a.db"))
    with closing(sqlite3.connect(path)) as connection, connection:
        ids = [rowid for (rowid,) in connection.execute("SELECT rowid FROM data ORDER BY rowid")]
        connection.execute("DELETE FROM data WHERE rowid > ?", (ids[:KEPT][-1],))
        for rowid in ids[:KEPT][rows]:
            atoms, blob = connection.execute(
                f"SELECT N, {column} FROM data WHERE rowid = ?", (rowid,)
            ).fetchone()
            array = np.frombuffer(blob)
            shape = (atoms, 3) if column == "pos" else (int(len(array) ** 0.5), -1)
            blob = np.ascontiguousarray(change(array.reshape(shape).copy())).tobytes()
            connection.execute(f"UPDATE data SET {column} = ? WHERE rowid = ?", (blob, rowid))
    return path


def module(path: Path, flavour: str) -> QH9DataModule:
    name = "random" if flavour == "stable" else "geometry"
    return QH9DataModule(str(path), OrbitalBasis.def2_svp(), split=name, fractions=(0.8, 0.1, 0.1))


@pytest.mark.parametrize("flavour", FILES)
def test_real_molecules_cause_no_warning(flavour, recwarn):
    path = database_path(f"embedded:{FILES[flavour]}")
    database = QH9Database(path)
    for row in range(0, len(database), 3):
        database[row]
    module(path, flavour).setup()
    assert not recwarn.list


def on_top(positions: np.ndarray) -> np.ndarray:
    positions[1] = positions[0]
    return positions


def apart(positions: np.ndarray) -> np.ndarray:
    positions[-1] += 1e5
    return positions


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (on_top, r"atoms 1 and 2 \(counted from 1\) are 0 angstrom apart"),
        (np.zeros_like, r"atoms 1 and 2 \(counted from 1\) are 0 angstrom apart"),
        (lambda p: p.byteswap(), "read of the other byte order .* it would be a molecule"),
        (apart, r"3 atoms extend over .* angstrom \(at most 29\)"),
        (lambda p: 0.6 * p, r"the atoms are 0\.[56]\d times as far apart as bonded ones"),
    ],
)
@pytest.mark.parametrize("flavour", FILES)
def test_one_row_that_is_no_molecule_is_named(tmp_path, flavour, change, message):
    number = 20
    if flavour == "stable":  # a molecule of three atoms with hydrogen
        database = QH9Database(database_path("embedded:demo_stable.db"))
        number = next(n for n, row in enumerate(database) if len(row.numbers) == 3 and 1 in row.numbers)
    database = QH9Database(altered(tmp_path, flavour, "pos", change, slice(number, number + 1)))
    database[number - 1], database[number + 1]
    for _ in range(2):  # it is not let through when it is asked for again
        with pytest.raises(DataError, match=message) as caught:
            database[number]
        assert str(caught.value).startswith(f"{database.path}: row {number}: column pos: ")
    assert "\n" not in str(caught.value)


def test_angstrom_in_a_dynamic_database(tmp_path):
    database = QH9Database(altered(tmp_path, "dynamic", "pos", lambda p: p / BOHR_PER_ANGSTROM))
    for row in range(len(database)):
        with pytest.raises(DataError, match=r"read in angstrom \(a dynamic database has bohr\).* a molecule"):
            database[row]


def test_bohr_in_a_stable_database(tmp_path):
    """A single row could be a molecule with broken bonds; the database as a whole could not."""
    path = altered(tmp_path, "stable", "pos", lambda p: p * BOHR_PER_ANGSTROM)
    message = (
        r"a\.db: column pos: in 32 of 32 checked rows .* read in bohr \(a stable database has angstrom\)"
    )
    with pytest.raises(DataError, match=message):
        module(path, "stable").setup()


def test_transposed_positions_are_found_in_the_first_rows(tmp_path):
    database = QH9Database(altered(tmp_path, "stable", "pos", lambda p: p.T))
    messages = []
    for row in range(10):
        try:
            database[row]
        except DataError as error:
            messages.append(str(error))
    assert len(messages) > 3
    assert all(r"as (3, atoms)" in message for message in messages)


def test_broken_bonds_are_accepted(tmp_path):
    """Dissociated hydrogen fluoride: no row is refused, and only a database of such rows causes a warning."""
    water = databases.random_sample([8, 1, 1], 0)
    numbers, positions, hamiltonian = databases.random_sample([9, 1], 0)
    rows = [(numbers, positions * (1 + 0.1 * n), hamiltonian) for n in range(10)]
    mixed = databases.write_stable(tmp_path / "mixed.db", [*rows, *[water] * 10])
    pulled = databases.write_stable(tmp_path / "pulled.db", rows)
    for path in (mixed, pulled):
        assert [len(molecule.numbers) for molecule in QH9Database(path)][:10] == [2] * 10
    module(mixed, "stable").setup()
    with pytest.warns(
        UserWarning,
        match=r"pulled\.db: column pos: in \d+ of 10 checked rows .*, unless bonds are meant to be",
    ):
        module(pulled, "stable").setup()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: 27.2114 * h, "it is in eV, divide it by 27.2114"),
        (lambda h: 2 * h, "it is in rydberg, divide it by 2"),
        (lambda h: 27211.4 * h, "it is in meV"),
        (lambda h: 627.5 * h, "it is in kcal/mol"),
        (lambda h: h.byteswap(), "it is of the other byte order|NaN or infinite numbers"),
        (lambda h: -h, "correct the Hamiltonian"),
        (np.zeros_like, "correct the Hamiltonian"),
        (lambda h: h[::-1, ::-1], "correct the Hamiltonian"),
    ],
)
@pytest.mark.parametrize("flavour", FILES)
def test_hamiltonians_in_another_unit(tmp_path, flavour, change, message):
    database = QH9Database(altered(tmp_path, flavour, "Ham", change))
    for row in range(0, len(database), 2):  # H2 is among them
        with pytest.raises(DataError, match=message) as caught:
            database[row]
        assert str(caught.value).startswith(f"{database.path}: row {row}: ")
        assert "column Ham" in str(caught.value)


@pytest.mark.parametrize("pair", [(6, 7), (7, 8), (8, 9)])
def test_hamiltonians_of_atoms_in_another_order(tmp_path, pair):
    numbers, positions, hamiltonian = databases.random_sample(pair, 0)
    path = databases.write_stable(tmp_path / "a.db", [(numbers[::-1].copy(), positions, hamiltonian)])
    with pytest.raises(
        DataError, match=r"1s level of atom 1 .*its atoms are in another order than those of column Z"
    ):
        QH9Database(path)[0]
