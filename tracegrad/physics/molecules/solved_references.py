"""Solved reference molecules of a database: from the cache where they are in it, else solved on the spot."""

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

# A cache takes no more of the free room of a disk.
MOST_OF_DISK = 0.5
COMMIT = 64  # molecules that are written together, and lost together when a build is killed
# Below so many seconds of work in one process, starting others takes longer.
_WORTH_PROCESSES = 20.0


class SolvedReferences:
    """Calling it with a row of the database gives the `SolvedMolecule`.

    Args:
        database: with the Hamiltonians.
        cache: of it, or None.
    """

    def __init__(self, database: QH9Database, cache: SolvedCache | None = None):
        self.database, self.cache = database, cache

    def __call__(self, row: int) -> SolvedMolecule:
        if self.cache is None:
            return _solve(self.database, row)
        damaged = False
        try:
            found = self.cache.get(row)
            damaged = found is None and bool(self.cache.present([row]))
        except DamagedCache:
            found = None
        if found is not None:
            return found
        solved = _solve(self.database, row)
        if damaged:
            with (
                suppress(TraceGradError),
                closing(SolvedCache(self.cache.path, self.cache.about, create=True)) as file,
            ):
                file.add([(row, solved)])
        return solved

    def close(self) -> None:
        """Let go of the file."""
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
    """References of a database, with the given rows in the cache.

    The first of several places that has all rows or can be written is taken; rows that it lacks are solved in
    parallel and added. Another process that does so is waited for. Without a place nothing is kept. The rows in a
    cache are not read here: one that turns out damaged when it is used is solved then, and replaced.

    Args:
        database: with the Hamiltonians.
        rows: which ones are needed.
        paths: where the cache may lie, see `solved_paths`.
        processes: of one thread each; None: one for each core, or this one alone for little work.
        report: gets lines about what is done and why.
        on_progress: called with the number of molecules done and of all.

    Raises:
        DataError: a molecule has no closed shell or is damaged; those solved before are kept.
        TraceGradError: a single place cannot be written, or a worker process died.
    """
    if processes is not None and processes < 1:
        raise ConfigError(f"processes is {processes}; at least 1 is needed")
    about = about_database(database.path)
    rows = sorted(set(map(int, rows)))
    for path in paths:
        cache = _whole(path, about, rows)
        if cache is not None:
            return SolvedReferences(database, cache)
    place = next((path for path in paths if writable(path.parent)), None)
    if place is None:
        if len(paths) == 1:
            raise TraceGradError(
                f"{paths[0]}: cannot be written; choose another callbacks.orbitals.cache, or null for none"
            )
        if paths:
            folders = " and ".join(str(path.parent) for path in paths)
            report(f"no cache of orbitals, because {folders} cannot be written; set callbacks.orbitals.cache")
        return SolvedReferences(database)
    lock = place.with_name(f"{place.name}.lock")
    with build_lock(lock, str(place), report):
        cache = _opened(place, about, rows, report)
        try:
            missing = sorted(set(rows) - cache.present(rows))
            needed, free = _bytes(database, missing), shutil.disk_usage(place.parent).free
            if needed > MOST_OF_DISK * free:
                report(
                    f"{len(missing)} molecules are solved as they come: their cache would take "
                    f"{needed / 1e9:.1f} GB of {free / 1e9:.1f} GB free at {place.parent}"
                )
            elif missing:
                done = len(rows) - len(missing)
                if processes is None:
                    processes = available_cores() if _seconds(database, missing) > _WORTH_PROCESSES else 1
                processes = min(processes, len(missing))
                report(f"solving {len(missing)} reference molecules for {place}; processes: {processes}")
                _fill(cache, database, missing, processes, lambda n: on_progress(done + n, len(rows)))
        except BaseException:
            cache.close()
            raise
        finally:
            lock.unlink()
    return SolvedReferences(database, cache)


def _whole(path: Path, about: str, rows: Sequence[int]) -> SolvedCache | None:
    """The cache at a place if it needs nothing more."""
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


def _opened(path: Path, about: str, rows: Sequence[int], report: Callable[[str], None]) -> SolvedCache:
    """The cache at a place, to be written; a file that is none of this database is replaced."""
    try:
        cache = SolvedCache(path, about, create=True)
        cache.present(rows)  # shows damage of the file
        return cache
    except DamagedCache as error:
        if not path.name.endswith(SUFFIX):  # perhaps something of value
            raise DataError(
                f"{error}; remove the file if it is a cache of orbitals, or choose another callbacks.orbitals.cache"
            ) from error
        report(f"{error}; it is built anew")
    remove(path)
    return SolvedCache(path, about, create=True)


def _fill(
    cache: SolvedCache,
    database: QH9Database,
    rows: Sequence[int],
    processes: int,
    on_progress: Callable[[int], None],
) -> None:
    waiting: list[tuple[int, SolvedMolecule]] = []
    on_progress(0)
    try:
        for done, solved in enumerate(_solved(database, rows, processes), 1):
            waiting.append(solved)
            if len(waiting) == COMMIT:
                cache.add(waiting)
                waiting = []
            on_progress(done)
    finally:
        cache.add(waiting)


def _solved(
    database: QH9Database, rows: Sequence[int], processes: int
) -> Iterator[tuple[int, SolvedMolecule]]:
    """Rows and solved molecules in any order."""
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


def _seconds(database: QH9Database, rows: Sequence[int]) -> float:
    """About how long the rows take in one process: 2 ms for 3 atoms, 17 ms for 18, 35 ms for 25."""
    return float((1e-3 + 5e-5 * database.atom_counts[list(rows)].astype(float) ** 2).sum())


def _bytes(database: QH9Database, rows: Sequence[int]) -> float:
    """About what the rows take: 16 bytes for each element of H, which has 9.5 orbitals for each atom."""
    return 16 * 9.5**2 * float((database.atom_counts[list(rows)].astype(float) ** 2).sum())
