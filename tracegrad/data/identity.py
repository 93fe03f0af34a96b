"""Identification of large files without reading them completely."""

import hashlib
from pathlib import Path


def head_hash(path: Path) -> str:
    """SHA-256 of the first MiB of a file (16 hex digits).

    For an SQLite file it changes with every write, because the header holds a counter of writes.
    """
    with path.open("rb") as file:
        return hashlib.sha256(file.read(1 << 20)).hexdigest()[:16]
