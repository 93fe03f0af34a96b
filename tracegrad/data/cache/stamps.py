"""Stamps and hashes of the files of a structure, which show whether they have changed since its cache was built."""

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path


def stamp_of(files: Sequence[Path]) -> str:
    """Hash of the names, sizes and times of files."""
    states: list[tuple[str, ...] | tuple[str, int, int, int]] = []
    for path in files:
        try:
            status = os.stat(path)
            states.append((path.name, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
        except OSError:
            states.append((path.name,))
    return hashlib.blake2b(json.dumps(states).encode(), digest_size=16).hexdigest()


class ContentHashes:
    """Hash of the bytes of files; files with the same names and stamp are read only once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], str] = {}

    def __call__(self, files: Sequence[Path]) -> str:
        """Hash of the names and bytes of files; only the names of files that cannot be read."""
        key = (stamp_of(files), *map(str, files))
        if key not in self._known:
            digest = hashlib.blake2b(digest_size=32)
            for path in files:
                digest.update(path.name.encode())
                with suppress(OSError), path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, hashlib.blake2b).digest())
            self._known[key] = digest.hexdigest()
        return self._known[key]
