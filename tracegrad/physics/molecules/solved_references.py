"""Solved reference molecules of a database: read from the cache, or solved when they are needed."""

import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from functools import lru_cache
from pathlib import Path

from tracegrad.data.cache.lookup import build_lock, writable
from tracegrad.data.qh9.database import QH9Database
from tracegrad.errors import ConfigError, DataError, TraceGradError
from tracegrad.physics.molecules.solved import SolvedMolecule, solve_molecule
from tracegrad.physics.molecules.solved_cache import SUFFIX, DamagedCache, SolvedCache, about_database, remove
from tracegrad.system.cores import available_cores
from tracegrad.system.workers import TaskFailure, WorkerDied, WorkerPool

# A cache is not built if it would take more than this fraction of the free disk space.
MOST_OF_DISK = 0.5
COMMIT = 64  # molecules in one transaction, which are lost together if the process is killed
# Seconds of work in one process; for less, starting further processes takes longer than the work.
_WORTH_PROCESSES = 20.0


class SolvedReferences:
    """The solved molecules of a database: ``references(row)`` returns the `SolvedMolecule` of a row.

    Args:
        database: with the Hamiltonians.
        cache: of the database, or None to solve each molecule.
    """

    def __init__(self, database: QH9Database, cache: SolvedCache | None = None):
        self.database, self.cache = database, cache

    def __call__(self, row: int) -> SolvedMolecule:
        if self.cache is None:
            return _solve(self.database, row)
        damaged = False
        try:
            cached = self.cache.get(row)
            damaged = cached is None and bool(self.cache.present([row]))
        except DamagedCache:
            cached = None
        if cached is not None:
            return cached
        solved = _solve(self.database, row)
        if damaged:
            with (
                suppress(TraceGradError),
                closing(SolvedCache(self.cache.path, self.cache.about, create=True)) as file,
            ):
                file.add([(row, solved)])
        return solved

    def close(self) -> None:
        """Close the cache file."""
        if self.cache is not None:
            self.cache.close()


def prepare_references(
    database: QH9Database,
    rows: Sequence[int],
    paths: Sequence[Path],
    *,
    processes: int | None = None,
    report: Callable[[str], None] = lambda line: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> SolvedReferences:
    """References of a database, with ``rows`` in the cache.

    Uses the first cache file that has all rows, or else the first path that is writable. Rows that it lacks are
    solved in parallel and added; if another process is doing this, the function waits for it. Without a writable
    path nothing is stored. The rows in a cache are not read here: a damaged one is solved again and replaced when it
    is used.

    Args:
        database: with the Hamiltonians.
        rows: the rows that are needed.
        paths: possible paths of the cache, see `solved_paths`.
        processes: number of processes of one thread each; None: one for each core, or only this one for little work.
        report: receives lines about what is done and why.
        on_progress: called with the number of molecules done and of all molecules.

    Raises:
        DataError: a molecule has no closed shell or is damaged; molecules solved before are kept.
        TraceGradError: the only path is not writable, or a worker process died.
    """
    if processes is not None and processes < 1:
        raise ConfigError(f"processes is {processes}; at least 1 is needed")
    about = about_database(database.path)
    rows = sorted(set(map(int, rows)))
    for path in paths:
        cache = _complete_cache(path, about, rows)
        if cache is not None:
            return SolvedReferences(database, cache)
    place = next((path for path in paths if writable(path.parent)), None)
    if place is None:
        if len(paths) == 1:
            raise TraceGradError(
                f"{paths[0]}: cannot be written; choose another callbacks.orbitals.cache, or null for no cache"
            )
        if paths:
            folders = " and ".join(str(path.parent) for path in paths)
            report(f"no cache of orbitals, because {folders} cannot be written; set callbacks.orbitals.cache")
        return SolvedReferences(database)
    lock = place.with_name(f"{place.name}.lock")
    with build_lock(lock, str(place), report):
        cache = _writable_cache(place, about, rows, report)
        try:
            missing = sorted(set(rows) - cache.present(rows))
            needed, free = _estimated_bytes(database, missing), shutil.disk_usage(place.parent).free
            if needed > MOST_OF_DISK * free:
                report(
                    f"{len(missing)} molecules are solved as they come: their cache would take "
                    f"{needed / 1e9:.1f} GB of {free / 1e9:.1f} GB free at {place.parent}"
                )
            elif missing:
                done = len(rows) - len(missing)
                if processes is None:
                    processes = (
                        available_cores() if _estimated_seconds(database, missing) > _WORTH_PROCESSES else 1
                    )
                processes = min(processes, len(missing))
                report(f"solving {len(missing)} reference molecules for {place}; processes: {processes}")
                _solve_into(cache, database, missing, processes, lambda n: on_progress(done + n, len(rows)))
        except BaseException:
            cache.close()
            raise
        finally:
            lock.unlink()
    return SolvedReferences(database, cache)


def _complete_cache(path: Path, about: str, rows: Sequence[int]) -> SolvedCache | None:
    """The cache at a path if it has all rows; None otherwise."""
    if not os.path.isfile(path):
        return None
    try:
        cache = SolvedCache(path, about)
        if len(cache.present(rows)) == len(rows):
            return cache
        cache.close()
    except TraceGradError:
        pass
    return None


def _writable_cache(
    path: Path, about: str, rows: Sequence[int], report: Callable[[str], None]
) -> SolvedCache:
    """The cache at a path, opened for writing; a file that is no cache of this database is replaced."""
    try:
        cache = SolvedCache(path, about, create=True)
        cache.present(rows)  # raises if the file is damaged
        return cache
    except DamagedCache as error:
        if not path.name.endswith(SUFFIX):  # perhaps a valuable file of the user
            raise DataError(
                f"{error}; remove the file if it is a cache of orbitals, or choose another callbacks.orbitals.cache"
            ) from error
        report(f"{error}; it is built anew")
    remove(path)
    return SolvedCache(path, about, create=True)


def _solve_into(
    cache: SolvedCache,
    database: QH9Database,
    rows: Sequence[int],
    processes: int,
    on_progress: Callable[[int], None],
) -> None:
    waiting: list[tuple[int, SolvedMolecule]] = []
    on_progress(0)
    try:
        for done, solved in enumerate(_solve_rows(database, rows, processes), 1):
            waiting.append(solved)
            if len(waiting) == COMMIT:
                cache.add(waiting)
                waiting = []
            on_progress(done)
    finally:
        cache.add(waiting)


def _solve_rows(
    database: QH9Database, rows: Sequence[int], processes: int
) -> Iterator[tuple[int, SolvedMolecule]]:
    """Pairs of row and solved molecule, in any order."""
    if processes == 1:
        for row in rows:
            yield row, _solve(database, row)
        return
    queue = deque(rows)
    try:
        with WorkerPool(processes) as pool:
            while queue or pool.busy:
                for _ in range(min(pool.idle, len(queue))):
                    row = queue.popleft()
                    pool.submit(row, _solve_row, database.path, row)
                for row, result in pool.finished(timeout=0.5):
                    if isinstance(result, TaskFailure):
                        raise DataError(result.reason)
                    yield row, result
    except WorkerDied as error:
        raise TraceGradError(
            f"{database.path}: a process that solves molecules died at row {error.key} ({error}); use fewer "
            "processes if memory was short"
        ) from error


def _solve(database: QH9Database, row: int) -> SolvedMolecule:
    return solve_molecule(database[row], f"{database.path}: row {row}")


@lru_cache(maxsize=1)
def _open(path: Path) -> QH9Database:
    return QH9Database(path)


def _solve_row(path: Path, row: int) -> SolvedMolecule:
    return _solve(_open(path), row)


def _estimated_seconds(database: QH9Database, rows: Sequence[int]) -> float:
    """Estimated time (s) to solve the rows in one process: 2 ms for 3 atoms, 17 ms for 18, 35 ms for 25."""
    return float((1e-3 + 5e-5 * database.atom_counts[list(rows)].astype(float) ** 2).sum())


def _estimated_bytes(database: QH9Database, rows: Sequence[int]) -> float:
    """Estimated size of the rows in the cache: 16 bytes for each element of H, with 9.5 orbitals for each atom."""
    return 16 * 9.5**2 * float((database.atom_counts[list(rows)].astype(float) ** 2).sum())
