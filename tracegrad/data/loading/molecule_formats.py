"""The formats of databases of molecules, told apart by their tables."""

from pathlib import Path

from tracegrad.data.molecules.database import MoleculeDatabase
from tracegrad.data.molecules.md17 import MD17Database
from tracegrad.data.molecules.nabladft import NablaDFTDatabase
from tracegrad.data.molecules.sqlite_file import SQLiteFile
from tracegrad.data.qh9.database import QH9Database


def open_molecules(path: Path) -> MoleculeDatabase:
    """The database in an SQLite file: QH9's schema, SchNOrb's MD17 (an ASE database) or nablaDFT.

    Raises:
        DataError: the file cannot be read, or is none of them.
    """
    tables = set(SQLiteFile(path).tables())
    if "systems" in tables:
        return MD17Database(path)
    if "basisset" in tables:
        return NablaDFTDatabase(path)
    return QH9Database(path)
