"""Integrals in a database are compared with PySCF's before orbitals are solved."""

import numpy as np
import pytest

from tests.data.molecules import files
from tracegrad.data.loading.datamodule import database_path
from tracegrad.data.molecules.md17 import MD17Database
from tracegrad.data.molecules.nabladft import NablaDFTDatabase
from tracegrad.data.qh9.database import QH9Database
from tracegrad.errors import DataError
from tracegrad.physics.molecules.cached_molecules import prepare_molecules
from tracegrad.physics.molecules.solved import SOLVED
from tracegrad.physics.molecules.stored_integrals import check_stored_integrals


def test_right_files_pass(tmp_path):
    check_stored_integrals(MD17Database(files.write_md17(tmp_path / "a.db", [files.sample([8, 1, 1], 0)])), 0)
    bromide = files.sample([35, 1], 0, files.OMEGA_B97X_D)
    check_stored_integrals(NablaDFTDatabase(files.write_nabladft(tmp_path / "b.db", [bromide])), 0)
    check_stored_integrals(QH9Database(database_path("embedded:demo_stable.db")), 0)


def test_another_order_of_orbitals(tmp_path):
    """As if the file were in PySCF's order already."""
    numbers, positions, *matrices = files.sample([8, 1, 1], 0)
    inverse = np.argsort(files.in_file_order(np.diag(np.arange(24)), numbers).diagonal())
    shuffled = [matrix[inverse][:, inverse] for matrix in matrices]
    database = MD17Database(files.write_md17(tmp_path / "a.db", [(numbers, positions, *shuffled)]))
    with pytest.raises(DataError, match=r"a\.db: row 0: the stored overlap differs .* order of the orbitals"):
        prepare_molecules(database, SOLVED, [0], [tmp_path / "a.tracegrad-orbitals"], processes=1)


def test_another_unit_of_positions(tmp_path):
    numbers, positions, *matrices = files.sample([6, 8], 0, files.OMEGA_B97X_D)
    row = (numbers, 1.1 * positions, *matrices)
    database = NablaDFTDatabase(files.write_nabladft(tmp_path / "a.db", [row]))
    with pytest.raises(DataError, match=r"row 0: the stored overlap differs .* unit of the positions"):
        check_stored_integrals(database, 0)
