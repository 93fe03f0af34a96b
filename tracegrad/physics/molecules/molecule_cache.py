"""The cache file of what is computed once for the molecules of a QH9 database, such as orbitals of references.

It is an SQLite file, like the database: rows are written completely or not at all, a killed process leaves the
committed rows, and more rows can be added later. What a row holds is an `Entries`, such as
`tracegrad.physics.molecules.solved.SOLVED`.

Each row has a CRC-32 checksum, which is verified whenever the row is read. The file has the size of the database, the
hash of its head, the basis and the settings of its entries, which identify its content. Rows of earlier versions have
longer checksums, which do not detect exchanged numbers; they count as missing and are replaced.
"""

import json
import os
import sqlite3
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import numpy as np

from tracegrad.data.cache.lookup import AUTO, cache_places
from tracegrad.data.identity import head_hash
from tracegrad.data.molecules.database import Molecule
from tracegrad.errors import DataError, TraceGradError
from tracegrad.physics.molecules.dft import BASIS

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


Entry = TypeVar("Entry")


@dataclass(frozen=True, eq=False)
class Stored:
    """An entry as it is stored: number of orbitals, number of occupied ones (0: not needed), and float64 numbers."""

    size: int
    occupied: int
    numbers: Sequence[np.ndarray]


@dataclass(frozen=True, eq=False)
class Entries(Generic[Entry]):
    """A kind of entries: how they are computed and stored.

    Args:
        title: what they are, in messages.
        suffix: end of the names of their files.
        setting: the setting that chooses the file, in messages.
        compute: the entry of a molecule; the second argument names the molecule in messages.
        encode: an entry in the stored form.
        decode: an entry from its numbers of orbitals and of occupied ones, and all its numbers as one array.
        length: count of numbers of an entry with so many orbitals.
        about: settings that determine the numbers.
    """

    title: str
    suffix: str
    setting: str
    compute: Callable[[Molecule, str], Entry]
    encode: Callable[[Entry], Stored]
    decode: Callable[[int, int, np.ndarray], Entry]
    length: Callable[[int], int]
    about: Mapping[str, Any] = field(default_factory=dict)


class DamagedCache(DataError):
    """The cache file is damaged, or belongs to another program or database; it can be built anew."""


class MoleculeCache(Generic[Entry]):
    """Reads and writes entries by their row in the database; it can be used in several processes and threads.

    Args:
        path: of the file.
        kind: of the entries.
        about: identity of the content, from `about_database`.
        create: create the file if it does not exist, and allow writing.

    Raises:
        DamagedCache: the file is no undamaged cache of this content.
        TraceGradError: it cannot be read or, with ``create``, written.
    """

    def __init__(self, path: Path, kind: Entries[Entry], about: str, *, create: bool = False):
        self.path, self.kind, self.about, self._create = path, kind, about, create
        self._local = threading.local()
        try:
            with self._errors():
                if create and not self._query("SELECT name FROM sqlite_master"):
                    connection = self._connection()
                    connection.execute(f"PRAGMA page_size = {PAGE}")
                    with connection:
                        connection.execute("BEGIN")
                        for table in _TABLES:
                            connection.execute(table)
                        connection.execute("INSERT INTO about VALUES (?)", (about,))
                if self._query("SELECT text FROM about") != [(about,)]:
                    raise DamagedCache(f"{path}: belongs to another database or another version of TraceGrad")
                if create:
                    with self._connection() as connection:
                        connection.execute(_INDEX)
        except BaseException:
            self.close()
            raise

    def present(self, rows: Iterable[int]) -> set[int]:
        """Which of the rows are in the file; only `get` reads their numbers."""
        with self._errors():
            stored = {row for (row,) in self._query(f"SELECT row FROM solved WHERE {_CURRENT}")}
        return stored.intersection(rows)

    def add(self, entries: Iterable[tuple[int, Entry]]) -> None:
        """Write entries in one transaction: all of them or, if the process is killed, none."""
        with self._errors(), self._connection() as connection:
            connection.executemany(
                "REPLACE INTO solved VALUES (?, ?, ?, ?, ?)",
                (_row_values(row, self.kind.encode(entry)) for row, entry in entries),
            )

    def get(self, row: int) -> Entry | None:
        """The entry of a row; None if it is missing.

        Raises:
            DamagedCache: the numbers of the row are damaged.
        """
        with self._errors():
            stored = self._query("SELECT n, occupied, checksum, numbers FROM solved WHERE row = ?", row)
        if not stored:
            return None
        n, occupied, checksum, content = stored[0]
        if checksum != _checksum(n, occupied, content) or len(content) != 8 * self.kind.length(n):
            raise DamagedCache(f"{self.path}: row {row} is damaged")
        return self.kind.decode(n, occupied, np.frombuffer(content))

    def close(self) -> None:
        """Close the file in this process and thread; the next use opens it again."""
        connection, pid = self._opened()
        if connection is not None and pid == os.getpid():
            connection.close()
        self._local = threading.local()

    def _opened(self) -> tuple[sqlite3.Connection | None, int]:
        return getattr(self._local, "opened", (None, 0))

    def _connection(self) -> sqlite3.Connection:
        connection, pid = self._opened()
        if connection is None or pid != os.getpid():  # SQLite connections must not cross a fork
            mode = "rwc" if self._create else "ro"
            uri = f"file://{quote(os.fsencode(self.path.absolute()))}?mode={mode}"
            connection = sqlite3.connect(uri, uri=True, timeout=60)
            self._local.opened = connection, os.getpid()
        return connection

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_local"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _local=threading.local())

    def _query(self, sql: str, *values: int) -> list[tuple]:
        return self._connection().execute(sql, values).fetchall()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        title = self.kind.title
        try:
            yield
        except sqlite3.OperationalError as error:  # no file, no permission, full disk, or no table
            if "no such table" in str(error) or "no such column" in str(error):
                raise DamagedCache(f"{self.path}: no cache of {title} ({error})") from error
            raise TraceGradError(
                f"{self.path}: {error}; free disk space or choose another {self.kind.setting}"
            ) from error
        except sqlite3.Error as error:
            raise DamagedCache(f"{self.path}: damaged, or no cache of {title} ({error})") from error


def molecule_cache_paths(database: Path, kind: Entries[Any], setting: str | None) -> list[Path]:
    """Possible paths of the cache of a database, in the order in which they are tried.

    Args:
        database: the file.
        kind: of the entries.
        setting: "auto", the path of a file, or None for no cache. "auto" is beside the database (unless the database
            comes with TraceGrad), then in the user's folder for caches (`cache_places`).
    """
    if setting is None:
        return []
    if setting != AUTO:
        return [Path(setting).expanduser()]
    return cache_places(database, [about_database(database, kind)], kind.suffix)


def about_database(database: Path, kind: Entries[Any]) -> str:
    """Identity of the content of a cache, as JSON: size and hash of the database, basis, format, further settings."""
    content = {"format": FORMAT, "bytes": database.stat().st_size, "head_sha256": head_hash(database)}
    return json.dumps(content | {"basis": BASIS} | dict(kind.about))


def remove(path: Path) -> None:
    """Remove a cache file and the journal that SQLite may have left beside it."""
    for ending in ("", "-journal"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + ending).unlink()


def _row_values(row: int, entry: Stored) -> tuple[int, int, int, bytes, bytes]:
    content = b"".join(np.ascontiguousarray(array, dtype="<f8").tobytes() for array in entry.numbers)
    return row, entry.size, entry.occupied, _checksum(entry.size, entry.occupied, content), content


def _checksum(n: int, occupied: int, content: bytes) -> bytes:
    return zlib.crc32(content, zlib.crc32(f"{n} {occupied}".encode())).to_bytes(4, "little")
