"""The unfinished database of a generation: stored frames, failures, and the state of each trajectory."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tracegrad.errors import GenerationError
from tracegrad.physics.continuing import check_same_settings
from tracegrad.physics.molecules.dynamics import LabelledFrame, TrajectoryState

_TABLES = (
    "CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE frames (item INTEGER, frame INTEGER, pos BLOB NOT NULL, ekin FLOAT, epot FLOAT NOT NULL,"
    " etot FLOAT, time FLOAT, Ham BLOB NOT NULL, PRIMARY KEY (item, frame))",
    "CREATE TABLE states (item INTEGER PRIMARY KEY, frame INTEGER NOT NULL, positions BLOB NOT NULL,"
    " momenta BLOB NOT NULL, energy FLOAT NOT NULL, forces BLOB NOT NULL, density BLOB NOT NULL)",
    "CREATE TABLE failures (item INTEGER PRIMARY KEY, frame INTEGER NOT NULL, reason TEXT NOT NULL)",
)


class StoredFrame(NamedTuple):
    """A frame as the columns of the final database: `pos` in its unit, energies in hartree."""

    frame: int
    pos: bytes
    ekin: float | None
    epot: float
    etot: float | None
    time: float | None
    ham: bytes


class PartialFile:
    """SQLite file beside the output. A frame and the state of its trajectory are written together or not at all.

    Args:
        path: of the file, which is created if it does not exist.
        settings: the key of the generation; an existing file must have the same.

    Raises:
        GenerationError: the file has other settings, is damaged, or another process has opened it.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self._db = sqlite3.connect(path, timeout=1)
        try:
            # Held until the file is closed, so that a second process cannot write the same output.
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("BEGIN EXCLUSIVE")
            self._db.commit()
            if not self._db.execute("SELECT 1 FROM sqlite_master").fetchone():
                self._create(settings)
            self._compare(settings)
        except BaseException as error:
            self.close()
            if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
                raise GenerationError(f"{path.name}: another process is writing this output") from error
            if isinstance(error, sqlite3.DatabaseError):
                raise GenerationError(
                    f"{path.name}: not the partial file of a generation ({error}); delete it to start over"
                ) from error
            raise

    def _create(self, settings: dict[str, Any]) -> None:
        values = [(name, json.dumps(value)) for name, value in settings.items()]
        with self._db:
            self._db.execute("BEGIN")
            for statement in _TABLES:
                self._db.execute(statement)
            self._db.executemany("INSERT INTO settings VALUES (?, ?)", values)

    def _compare(self, settings: dict[str, Any]) -> None:
        stored = {name: json.loads(value) for name, value in self._db.execute("SELECT * FROM settings")}
        remedy = "choose another output, or delete the file to start over"
        check_same_settings(self.path.name, stored, settings, remedy)

    def add(self, item: int, frame: LabelledFrame, state: TrajectoryState | None = None) -> None:
        """Store a frame, and the state from which its trajectory continues, in one transaction."""
        pos, ham = frame.positions.astype("<f8").tobytes(), frame.hamiltonian.tobytes()
        energies = (frame.ekin, frame.epot, frame.etot, frame.time)
        with self._db:
            self._db.execute(
                "INSERT INTO frames VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (item, frame.number, pos, *energies, ham),
            )
            if state is not None:
                arrays = [a.tobytes() for a in (state.positions, state.momenta, state.forces, state.density)]
                self._db.execute(
                    "INSERT OR REPLACE INTO states (item, frame, energy, positions, momenta, forces, density)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (item, state.frame, state.energy, *arrays),
                )

    def fail(self, item: int, frame: int, reason: str) -> None:
        """Record that the label of a frame could not be computed, which ends its item."""
        with self._db:
            self._db.execute("INSERT INTO failures VALUES (?, ?, ?)", (item, frame, reason))

    def frame_counts(self) -> dict[int, int]:
        """Number of stored frames of each item that has any."""
        return dict(self._db.execute("SELECT item, count(*) FROM frames GROUP BY item"))

    def failures(self) -> dict[int, tuple[int, str]]:
        """Frame and reason of each item that failed."""
        rows = self._db.execute("SELECT item, frame, reason FROM failures ORDER BY item")
        return {item: (frame, reason) for item, frame, reason in rows}

    def state(self, item: int) -> TrajectoryState | None:
        """The state from which a trajectory continues; None if it has no frame yet."""
        row = self._db.execute(
            "SELECT frame, energy, positions, momenta, forces, density FROM states WHERE item = ?", (item,)
        ).fetchone()
        if row is None:
            return None
        frame, energy, *blobs = row
        positions, momenta, forces = (np.frombuffer(blob).reshape(-1, 3).copy() for blob in blobs[:3])
        density = np.frombuffer(blobs[3]).copy()
        n_orb = round(len(density) ** 0.5)
        return TrajectoryState(frame, positions, momenta, energy, forces, density.reshape(n_orb, n_orb))

    def rows(self, item: int) -> Iterator[StoredFrame]:
        """All frames of an item, in order."""
        query = "SELECT frame, pos, ekin, epot, etot, time, Ham FROM frames WHERE item = ? ORDER BY frame"
        for row in self._db.execute(query, (item,)):
            yield StoredFrame(*row)

    def close(self) -> None:
        """Close the file, which also releases its lock."""
        self._db.close()

    def remove(self) -> None:
        """Close and delete the file."""
        self.close()
        self.path.unlink(missing_ok=True)
