"""Small SQLite files in the schemas of the released QH9 databases."""

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from ase.data import covalent_radii

from tests.molecules import random_hamiltonian
from tracegrad.hamiltonian.basis import OrbitalBasis

STABLE = "CREATE TABLE data (id INTEGER NOT NULL PRIMARY KEY, N INTEGER, Z BLOB, pos BLOB, Ham BLOB)"
DYNAMIC = (
    "CREATE TABLE data (id INTEGER, geo_id INTEGER, N INTEGER, Z BLOB, pos BLOB, ekin BLOB, epot BLOB, "
    "etot BLOB, time BLOB, Ham BLOB, converged BLOB)"
)
SCHEMA = {"stable": STABLE, "dynamic": DYNAMIC}

CORE = {6: -10.2, 7: -14.3, 8: -19.1, 9: -24.7}  # 1s levels, hartree

Sample = tuple[np.ndarray, np.ndarray, np.ndarray]  # Z, positions in the file's unit, H


def random_sample(numbers: Sequence[int], seed: int) -> Sample:
    """A chain of atoms that may be meant in angstrom or in bohr, and a random matrix with 1s levels."""
    z, basis = np.array(numbers), OrbitalBasis.def2_svp()
    positions = 0.01 * np.random.default_rng(seed).uniform(-1, 1, size=(len(z), 3))
    positions[1:, 0] += 1.3 * np.cumsum(covalent_radii[z[1:]] + covalent_radii[z[:-1]])
    hamiltonian = random_hamiltonian(z, basis, seed)
    sizes = basis.sizes[z]
    for number, start in zip(z.tolist(), (np.cumsum(sizes) - sizes).tolist(), strict=True):
        if number > 1:
            hamiltonian[start, start] = CORE[number]
    return z, positions, hamiltonian


def write_stable(path: Path, samples: Iterable[Sample], ids: Iterable[int] | None = None) -> Path:
    """A database like QH9Stable.db; rows are inserted in the given order (ids: 0, 1, ...)."""
    samples = list(samples)
    rows = [(i, *_blobs(sample)) for i, sample in zip(ids or range(len(samples)), samples, strict=True)]
    return _write(path, STABLE, "INSERT INTO data VALUES (?, ?, ?, ?, ?)", rows)


def write_dynamic(path: Path, trajectories: Iterable[tuple[int, list[Sample]]]) -> Path:
    """A database like QH9Dynamic_*.db from pairs (trajectory id, frames)."""
    energy = np.float64(-1.0).tobytes()
    rows = []
    for trajectory, frames in trajectories:
        for frame, sample in enumerate(frames):
            n, z, positions, hamiltonian = _blobs(sample)
            key = np.int64(trajectory).tobytes()
            rows.append((key, frame, n, z, positions, energy, energy, energy, energy, hamiltonian, b"\1"))
    return _write(path, DYNAMIC, f"INSERT INTO data VALUES ({', '.join(11 * '?')})", rows)


def write_released_stable(path: Path, atoms: Iterable[int]) -> Path:
    """A file that looks like QH9Stable.db to the split rules: ids and N, empty blobs."""
    rows = ((i, n, b"", b"", b"") for i, n in enumerate(atoms))
    return _write(path, STABLE, "INSERT INTO data VALUES (?, ?, ?, ?, ?)", rows)


def write_released_dynamic(path: Path, trajectories: int) -> Path:
    """A file that looks like QH9Dynamic_*.db to the split rules: 100 rows a trajectory, empty blobs."""
    keys = [np.int64(t).tobytes() for t in range(trajectories)]
    rows = ((key, 3) for key in keys for _ in range(100))
    return _write(path, DYNAMIC, "INSERT INTO data (id, N) VALUES (?, ?)", rows)


def alter(path: Path, sql: str, *parameters: object) -> Path:
    """Run one statement on a database."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(sql, parameters)
    return path


def _blobs(sample: Sample) -> tuple[int, bytes, bytes, bytes]:
    numbers, positions, hamiltonian = sample
    return (
        len(numbers),
        numbers.astype("<i4").tobytes(),
        positions.astype("<f8").tobytes(),
        hamiltonian.astype("<f8").tobytes(),
    )


def _write(path: Path, schema: str, insert: str, rows: Iterable[tuple]) -> Path:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(schema)
        connection.executemany(insert, rows)
    return path
