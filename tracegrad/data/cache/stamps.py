"""Stamps and hashes of the files of a database, which show whether they have changed since its cache was built."""

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tracegrad.data.cache.file import STAMP_BYTES
from tracegrad.data.crystals.database import CrystalDatabase
from tracegrad.data.crystals.deeph import TEXT_FILES, matrix_path

_READ_TEXT_FILES = [name for name in TEXT_FILES if name != "rlat.dat"]


class ContentHashes:
    """Hash of the bytes of the files of each structure, by its name; a packed file is hashed only once."""

    def __init__(self, database: CrystalDatabase):
        self.database = database
        self._packed: dict[str, str] = {}  # by stamp

    def __getitem__(self, name: str) -> str:
        files = source_files(self.database, name)
        if not self.database.packed:
            return _content(files)
        stamp = stamp_of(files)
        if stamp not in self._packed:
            self._packed[stamp] = _content(files)
        return self._packed[stamp]


def source_files(database: CrystalDatabase, name: str) -> list[Path]:
    """The files from which a structure is read; the last one has its Hamiltonian."""
    if database.packed:
        return [database.path]
    folder = database.folder(name)
    matrix = matrix_path(folder, "hamiltonian")
    texts = _READ_TEXT_FILES if matrix.name == "hamiltonians.h5" else ["POSCAR", "info.json"]
    return [*(folder / text for text in texts), matrix]


def stamps_of(database: CrystalDatabase) -> list[str]:
    """Stamp of each structure, in the order of the names."""
    if database.packed:
        return [stamp_of([database.path])] * len(database)
    return [stamp_of(source_files(database, name)) for name in database.names]


def stamp_of(files: Sequence[Path]) -> str:
    """Hash of the names, sizes and times of files."""
    states: list[tuple[str, ...] | tuple[str, int, int, int]] = []
    for path in files:
        try:
            status = os.stat(path)
            states.append((path.name, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
        except OSError:
            states.append((path.name,))
    return hashlib.blake2b(json.dumps(states).encode(), digest_size=STAMP_BYTES).hexdigest()


def _content(files: Sequence[Path]) -> str:
    """Hash of the names and bytes of files; only the names of files that cannot be read."""
    digest = hashlib.blake2b(digest_size=32)
    for path in files:
        digest.update(path.name.encode())
        with suppress(OSError), path.open("rb") as file:
            digest.update(hashlib.file_digest(file, hashlib.blake2b).digest())
    return digest.hexdigest()
