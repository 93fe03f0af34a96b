"""What a user has already: the database, or its archives."""

import re
from pathlib import Path

import h5py

from tracegrad.data.crystal_files.deeph import is_structure_folder
from tracegrad.data.fetch.entry import DatabaseEntry
from tracegrad.errors import DataError

_ARCHIVE = re.compile(r".+\.(zip|tar|tgz|tbz2?|txz|tar\.(gz|bz2|xz)|z\d\d)(\.\d{3})?", re.IGNORECASE)


def local_files(entry: DatabaseEntry, source: Path) -> Path | list[Path]:
    """The database (one path) or its archives (a list).

    Args:
        source: a database, an archive, or a folder with either.

    Raises:
        DataError: ``source`` has neither.
    """
    try:
        return _database(entry, source) or _archives(entry, source)
    except OSError as error:
        raise DataError(f"{source}: cannot be read ({error.strerror}); correct source") from error


def is_sqlite(path: Path) -> bool:
    """Whether a file begins like an SQLite database."""
    with path.open("rb") as file:
        return file.read(16) == b"SQLite format 3\0"


def _database(entry: DatabaseEntry, source: Path) -> Path | None:
    if entry.release is not None:
        file = source / entry.path.name if source.is_dir() else source
        return file if file.is_file() and is_sqlite(file) else None
    if source.is_file() and h5py.is_hdf5(source):
        return source
    folders = [source, *source.glob("*/"), *source.glob("*/*/")]
    return source if source.is_dir() and any(map(is_structure_folder, folders)) else None


def _archives(entry: DatabaseEntry, source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise DataError(f"{source}: there is no such file or folder; correct source")
    archives = sorted(path for path in source.iterdir() if path.is_file() and _ARCHIVE.fullmatch(path.name))
    if not archives:
        content = f"a file {entry.path.name}" if entry.release else "folders of structures"
        raise DataError(f"{source}: neither archives (zip, tar) nor {content} in it; correct source")
    return [path for path in archives if entry.matches(path.name)] or archives
