"""The cache file of solved reference molecules of a database: integrals and diagonalisations are computed once.

It is an SQLite file, like the database: rows are written completely or not at all, a killed process leaves the
committed rows, and more rows can be added later. For a molecule with n orbitals it holds 2 n (n + 1) float64 numbers:
energies [n], orbitals [n, n], lower triangle of S [n (n + 1) / 2], lower triangle of H [n (n + 1) / 2]. This is
0.47 MB for 18 atoms (171 orbitals), 0.7 MB for 25 atoms; about 6 GB for the 9,335 test molecules of the size split
and 4.7 GB for the 10,100 of the dynamic database.

Each row has a CRC-32 checksum, which is verified whenever the row is read. The file has the size of the database, the
hash of its head and the basis, which identify the database. Rows of earlier versions have longer checksums, which do
not detect exchanged numbers; they count as missing and are replaced.
"""

import json
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import numpy as np

from tracegrad.data.cache.lookup import AUTO, cache_places
from tracegrad.data.identity import head_hash
from tracegrad.errors import DataError, TraceGradError
from tracegrad.physics.molecules.dft import BASIS
from tracegrad.physics.molecules.solved import SolvedMolecule

SUFFIX = ".tracegrad-orbitals"
FORMAT = 2
# Bytes of a page, the largest of SQLite: rows of half a megabyte are read five times faster than with the default.
PAGE = 65536
_TABLES = (
    "CREATE TABLE about (text TEXT)",
    "CREATE TABLE solved (row INTEGER PRIMARY KEY, n INTEGER, occupied INTEGER, checksum BLOB, numbers BLOB)",
)
# Finds the present rows without reading the pages that hold their numbers.
_CURRENT = "length(checksum) = 4"
_INDEX = f"CREATE INDEX IF NOT EXISTS current ON solved (row) WHERE {_CURRENT}"


class DamagedCache(DataError):
    """The cache file is damaged, or belongs to another program or database; it can be built anew."""


class SolvedCache:
    """Reads and writes solved molecules by their row in the database; every process and thread needs its own object.

    Args:
        path: of the file.
        about: identity of the database, from `about_database`.
        create: create the file if it does not exist, and allow writing.

    Raises:
        DamagedCache: the file is no undamaged cache of this database.
        TraceGradError: it cannot be read or, with ``create``, written.
    """

    def __init__(self, path: Path, about: str, *, create: bool = False):
        self.path, self.about = path, about
        uri = f"file://{quote(os.fsencode(path.absolute()))}?mode={'rwc' if create else 'ro'}"
        with self._errors():
            self._connection = sqlite3.connect(uri, uri=True, timeout=60)
        try:
            with self._errors():
                if create and not self._query("SELECT name FROM sqlite_master"):
                    self._connection.execute(f"PRAGMA page_size = {PAGE}")
                    with self._connection:
                        self._connection.execute("BEGIN")
                        for table in _TABLES:
                            self._connection.execute(table)
                        self._connection.execute("INSERT INTO about VALUES (?)", (about,))
                if self._query("SELECT text FROM about") != [(about,)]:
                    raise DamagedCache(f"{path}: belongs to another database or another version of TraceGrad")
                if create:
                    with self._connection:
                        self._connection.execute(_INDEX)
        except BaseException:
            self.close()
            raise

    def present(self, rows: Iterable[int]) -> set[int]:
        """Which of the rows are in the file; only `get` reads their numbers."""
        with self._errors():
            stored = {row for (row,) in self._query(f"SELECT row FROM solved WHERE {_CURRENT}")}
        return stored.intersection(rows)

    def add(self, solved: Iterable[tuple[int, SolvedMolecule]]) -> None:
        """Write molecules in one transaction: all of them or, if the process is killed, none."""
        with self._errors(), self._connection:
            self._connection.executemany(
                "REPLACE INTO solved VALUES (?, ?, ?, ?, ?)",
                (_row_values(row, molecule) for row, molecule in solved),
            )

    def get(self, row: int) -> SolvedMolecule | None:
        """The molecule of a row; None if it is missing.

        Raises:
            DamagedCache: the numbers of the row are damaged.
        """
        with self._errors():
            stored = self._query("SELECT n, occupied, checksum, numbers FROM solved WHERE row = ?", row)
        if not stored:
            return None
        n, occupied, checksum, content = stored[0]
        if checksum != _checksum(n, occupied, content) or len(content) != 16 * n * (n + 1):
            raise DamagedCache(f"{self.path}: row {row} is damaged")
        triangle = n * (n + 1) // 2
        energies, orbitals, overlap, hamiltonian = np.split(
            np.frombuffer(content), np.cumsum([n, n * n, triangle])
        )
        return SolvedMolecule(occupied, energies, orbitals.reshape(n, n), overlap, hamiltonian)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _query(self, sql: str, *values: int) -> list[tuple]:
        return self._connection.execute(sql, values).fetchall()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:  # no file, no permission, full disk, or no table
            if "no such table" in str(error) or "no such column" in str(error):
                raise DamagedCache(f"{self.path}: no cache of orbitals ({error})") from error
            raise TraceGradError(
                f"{self.path}: {error}; free disk space or choose another callbacks.orbitals.cache"
            ) from error
        except sqlite3.Error as error:
            raise DamagedCache(f"{self.path}: damaged, or no cache of orbitals ({error})") from error


def solved_paths(database: Path, setting: str | None) -> list[Path]:
    """Possible paths of the cache of a database, in the order in which they are tried.

    Args:
        database: the file.
        setting: "auto", the path of a file, or None for no cache. "auto" is beside the database (unless the database
            comes with TraceGrad), then in the user's folder for caches (`cache_places`).
    """
    if setting is None:
        return []
    if setting != AUTO:
        return [Path(setting).expanduser()]
    return cache_places(database, [about_database(database)], SUFFIX)


def about_database(database: Path) -> str:
    """Identity of the database that a cache belongs to, as JSON: size, hash of the head, basis, format."""
    content = {"format": FORMAT, "bytes": database.stat().st_size, "head_sha256": head_hash(database)}
    return json.dumps(content | {"basis": BASIS})


def remove(path: Path) -> None:
    """Remove a cache file and the journal that SQLite may have left beside it."""
    for ending in ("", "-journal"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + ending).unlink()


def _row_values(row: int, molecule: SolvedMolecule) -> tuple[int, int, int, bytes, bytes]:
    arrays = (molecule.energies, molecule.orbitals, molecule.overlap, molecule.hamiltonian)
    content = b"".join(np.ascontiguousarray(array, dtype="<f8").tobytes() for array in arrays)
    n, occupied = molecule.size, molecule.occupied
    return row, n, occupied, _checksum(n, occupied, content), content


def _checksum(n: int, occupied: int, content: bytes) -> bytes:
    return zlib.crc32(content, zlib.crc32(f"{n} {occupied}".encode())).to_bytes(4, "little")
