"""Solved reference molecules of a database: read from the cache, or solved when they are needed."""

import shutil
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

from tracegrad.data.cache.lookup import build_lock, writable
from tracegrad.data.molecules.database import MoleculeDatabase
from tracegrad.errors import ConfigError, DataError, TraceGradError
from tracegrad.physics.molecules.solved import SolvedMolecule, solve_molecule
from tracegrad.physics.molecules.solved_cache import SUFFIX, DamagedCache, SolvedCache, about_database, remove
from tracegrad.physics.molecules.stored_integrals import check_stored_integrals
from tracegrad.system.cores import available_cores
from tracegrad.system.parallel import map_unordered
from tracegrad.system.workers import WorkerDied

# A cache is not built if it would take more than this fraction of the free disk space.
MOST_OF_DISK = 0.5
COMMIT = 64  # molecules in one transaction, which are lost together if the process is killed
# For fewer molecules (17 ms each for 18 atoms), starting processes takes longer than the work.
_WORTH_PROCESSES = 1000


class SolvedReferences:
    """The solved molecules of a database: ``references(row)`` returns the `SolvedMolecule` of a row.

    Args:
        database: with the Hamiltonians.
        cache: of the database, or None to solve each molecule.
    """

    def __init__(self, database: MoleculeDatabase, cache: SolvedCache | None = None):
        self.database, self.cache = database, cache

    def __call__(self, row: int) -> SolvedMolecule:
        cached = None
        if self.cache is not None:
            try:
                cached = self.cache.get(row)
            except DamagedCache:
                with (
                    suppress(TraceGradError),
                    closing(SolvedCache(self.cache.path, self.cache.about, create=True)) as file,
                ):
                    cached = _solve(self.database, row)
                    file.add([(row, cached)])
        return cached or _solve(self.database, row)

    def close(self) -> None:
        """Close the cache file."""
        if self.cache is not None:
            self.cache.close()


def prepare_references(
    database: MoleculeDatabase,
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
        DataError: a molecule has no closed shell or is damaged, or the integrals in the database are others than
            PySCF's; molecules solved before are kept.
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
            # 16 bytes for each element of H, with 9.5 orbitals for each atom.
            needed = 16 * 9.5**2 * float((database.atom_counts[missing].astype(float) ** 2).sum())
            free = shutil.disk_usage(place.parent).free
            if needed > MOST_OF_DISK * free:
                report(
                    f"{len(missing)} molecules are solved as they come: their cache would take "
                    f"{needed / 1e9:.1f} GB of {free / 1e9:.1f} GB free at {place.parent}"
                )
            elif missing:
                check_stored_integrals(database, missing[0])
                done = len(rows) - len(missing)
                if processes is None:
                    processes = available_cores() if len(missing) > _WORTH_PROCESSES else 1
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
    with suppress(TraceGradError):
        cache = SolvedCache(path, about)
        if len(cache.present(rows)) == len(rows):
            return cache
        cache.close()
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
    database: MoleculeDatabase,
    rows: Sequence[int],
    processes: int,
    on_progress: Callable[[int], None],
) -> None:
    waiting: list[tuple[int, SolvedMolecule]] = []
    on_progress(0)
    try:
        for done, (n, solved) in enumerate(map_unordered(partial(_solve, database), rows, processes), 1):
            waiting.append((rows[n], solved))
            if len(waiting) == COMMIT:
                cache.add(waiting)
                waiting = []
            on_progress(done)
    except WorkerDied as error:
        place = f" at row {rows[error.key]}" if error.key >= 0 else ""
        raise TraceGradError(
            f"{database.path}: a process that solves molecules died{place} ({error}); use fewer processes if memory "
            "was short"
        ) from error
    finally:
        cache.add(waiting)


def _solve(database: MoleculeDatabase, row: int) -> SolvedMolecule:
    return solve_molecule(database[row], f"{database.path}: row {row}")
