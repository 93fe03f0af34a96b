"""What a user has already: the database itself, or its archives."""

import re
from pathlib import Path

import h5py

from tracegrad.data.crystals.deeph import is_structure_folder
from tracegrad.data.fetch.wanted import Wanted
from tracegrad.errors import DataError

_ARCHIVE = re.compile(r".+\.(zip|tar|tgz|tbz2?|txz|tar\.(gz|bz2|xz)|z\d\d)(\.\d{3})?", re.IGNORECASE)


def given_files(wanted: Wanted, source: Path) -> Path | list[Path]:
    """The database itself (one path) or its archives (a list).

    Args:
        source: a database, an archive, or a folder with either.

    Raises:
        DataError: neither is there.
    """
    try:
        return _database(wanted, source) or _archives(wanted, source)
    except OSError as error:
        raise DataError(f"{source}: cannot be read ({error.strerror}); correct source") from error


def is_sqlite(path: Path) -> bool:
    """Whether a file begins like an SQLite database."""
    with path.open("rb") as file:
        return file.read(16) == b"SQLite format 3\0"


def _database(wanted: Wanted, source: Path) -> Path | None:
    if wanted.release is not None:
        file = source / wanted.path.name if source.is_dir() else source
        return file if file.is_file() and is_sqlite(file) else None
    if source.is_file() and h5py.is_hdf5(source):
        return source
    inside = [source, *(inner for folder in _folders(source) for inner in (folder, *_folders(folder)))]
    return source if source.is_dir() and any(map(is_structure_folder, inside)) else None


def _archives(wanted: Wanted, source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise DataError(f"{source}: there is no such file or folder; correct source")
    found = sorted(path for path in source.iterdir() if path.is_file() and _ARCHIVE.fullmatch(path.name))
    archives = [path for path in found if wanted.owns(path.name)] or found
    if not archives:
        what = f"a file {wanted.path.name}" if wanted.release else "folders of structures"
        raise DataError(f"{source}: neither archives (zip, tar) nor {what} in it; correct source")
    return archives


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir()) if path.is_dir() else []
