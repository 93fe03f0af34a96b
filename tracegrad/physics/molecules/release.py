"""Writes a generated database in the SQLite schema of the released QH9 files, and its provenance file.

"Release" means the published data here. The published networks are the subject of `tracegrad.weights.released`.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tracegrad.physics.molecules.geometries import Geometry
from tracegrad.physics.molecules.partial import StoredFrame
from tracegrad.system.text_files import write_text
from tracegrad.system.whole_files import sync

SCHEMA = {
    "stable": "CREATE TABLE data (id INTEGER NOT NULL PRIMARY KEY,  N INTEGER, Z BLOB, pos BLOB, Ham BLOB)",
    "dynamic": "CREATE TABLE data (id INTEGER NOT NULL, geo_id INTEGER NOT NULL, N INTEGER, Z BLOB, pos BLOB,"
    " ekin FLOAT, epot FLOAT, etot FLOAT, time FLOAT, Ham BLOB, converged INT)",
}


def release_row(flavour: str, number: int, geometry: Geometry, frame: StoredFrame) -> tuple[Any, ...]:
    """The columns of one row of `SCHEMA`; `number` is that of the geometry (stable) or the trajectory (dynamic)."""
    z = geometry.numbers.astype("<i4").tobytes()
    size = len(geometry.numbers)
    if flavour == "stable":
        return number, size, z, frame.pos, frame.ham
    identity = (np.array(number, dtype="<i8").tobytes(), frame.frame, size, z)
    energies = (frame.ekin, frame.epot, frame.etot, frame.time)
    return (*identity, frame.pos, *energies, frame.ham, 1)


def write_database(path: Path, flavour: str, rows: Iterable[tuple[Any, ...]]) -> tuple[int, str]:
    """Write a new database and flush it to the disk.

    Returns:
        The number of rows and the SHA-256 of the file.
    """
    path.unlink(missing_ok=True)
    places = ", ".join("?" * (5 if flavour == "stable" else 11))
    db = sqlite3.connect(path)
    try:
        db.execute(SCHEMA[flavour])
        with db:
            count = db.executemany(f"INSERT INTO data VALUES ({places})", rows).rowcount
        db.execute("VACUUM")
    finally:
        db.close()
    sync(path)
    with path.open("rb") as file:
        return max(count, 0), hashlib.file_digest(file, "sha256").hexdigest()


def provenance_path(output: Path) -> Path:
    """The path of the provenance file of a database: `name.provenance.json` beside `name.db`."""
    return output.with_name(f"{output.stem}.provenance.json")


def write_provenance(output: Path, content: dict[str, Any]) -> None:
    """Write the provenance file of the database `output` completely or not at all."""
    write_text(provenance_path(output), json.dumps(content, indent=2, ensure_ascii=False) + "\n")
