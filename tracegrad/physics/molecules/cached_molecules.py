"""What is computed once for molecules of a database: read from the cache, or computed when it is needed."""

import shutil
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Generic

from tracegrad.data.cache.lookup import build_lock, writable
from tracegrad.data.molecules.database import MoleculeDatabase
from tracegrad.errors import ConfigError, DataError, TraceGradError
from tracegrad.physics.molecules.molecule_cache import (
    DamagedCache,
    Entries,
    Entry,
    MoleculeCache,
    about_database,
    remove,
)
from tracegrad.physics.molecules.stored_integrals import check_stored_integrals
from tracegrad.system.cores import available_cores
from tracegrad.system.parallel import map_unordered
from tracegrad.system.workers import WorkerDied

# A cache is not built if it would take more than this fraction of the free disk space.
MOST_OF_DISK = 0.5
COMMIT = 64  # molecules in one transaction, which are lost together if the process is killed
# For fewer molecules (17 ms each for 18 atoms), starting processes takes longer than the work.
_WORTH_PROCESSES = 1000


class CachedMolecules(Generic[Entry]):
    """The entries of the molecules of a database, by row: ``molecules(row)`` returns that of a row.

    It can be sent to worker processes.

    Args:
        database: with the Hamiltonians.
        kind: of the entries.
        cache: of the database, or None to compute each entry.
    """

    def __init__(
        self, database: MoleculeDatabase, kind: Entries[Entry], cache: MoleculeCache[Entry] | None = None
    ):
        self.database, self.kind, self.cache = database, kind, cache

    def __call__(self, row: int) -> Entry:
        cached = None
        if self.cache is not None:
            try:
                cached = self.cache.get(row)
            except DamagedCache:
                with (
                    suppress(TraceGradError),
                    closing(MoleculeCache(self.cache.path, self.kind, self.cache.about, create=True)) as file,
                ):
                    cached = _compute(self.database, self.kind, row)
                    file.add([(row, cached)])
        return _compute(self.database, self.kind, row) if cached is None else cached

    def close(self) -> None:
        """Close the cache file."""
        if self.cache is not None:
            self.cache.close()


def prepare_molecules(
    database: MoleculeDatabase,
    kind: Entries[Entry],
    rows: Sequence[int],
    paths: Sequence[Path],
    *,
    processes: int | None = None,
    report: Callable[[str], None] = lambda line: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> CachedMolecules[Entry]:
    """Entries of the molecules of a database, with ``rows`` in the cache.

    Uses the first cache file that has all rows, or else the first path that is writable. Rows that it lacks are
    computed in parallel and added; if another process is doing this, the function waits for it. Without a writable
    path nothing is stored. The rows in a cache are not read here: a damaged one is computed again and replaced when
    it is used.

    Args:
        database: with the Hamiltonians.
        kind: of the entries.
        rows: the rows that are needed.
        paths: possible paths of the cache, see `molecule_cache_paths`.
        processes: number of processes of one thread each; None: one for each core, or only this one for little work.
        report: receives lines about what is done and why.
        on_progress: called with the number of molecules done and of all molecules.

    Raises:
        DataError: a molecule has no closed shell or is damaged, or the integrals in the database are others than
            PySCF's; what was computed before is kept.
        TraceGradError: the only path is not writable, or a worker process died.
    """
    if processes is not None and processes < 1:
        raise ConfigError(f"processes is {processes}; at least 1 is needed")
    about = about_database(database.path, kind)
    rows = sorted(set(map(int, rows)))
    for path in paths:
        cache = _complete_cache(path, kind, about, rows)
        if cache is not None:
            return CachedMolecules(database, kind, cache)
    place = next((path for path in paths if writable(path.parent)), None)
    if place is None:
        if len(paths) == 1:
            raise TraceGradError(
                f"{paths[0]}: cannot be written; choose another {kind.setting}, or null for no cache"
            )
        if paths:
            folders = " and ".join(str(path.parent) for path in paths)
            report(f"no cache of {kind.title}, because {folders} cannot be written; set {kind.setting}")
        return CachedMolecules(database, kind)
    lock = place.with_name(f"{place.name}.lock")
    with build_lock(lock, str(place), report):
        cache = _writable_cache(place, kind, about, rows, report)
        try:
            missing = sorted(set(rows) - cache.present(rows))
            orbitals = (9.5 * database.atom_counts[missing]).astype(int)  # about that many for each atom
            needed = 8 * sum(map(kind.length, orbitals.tolist()))
            free = shutil.disk_usage(place.parent).free
            if needed > MOST_OF_DISK * free:
                report(
                    f"{kind.title} of {len(missing)} molecules are computed as they come: their cache would take "
                    f"{needed / 1e9:.1f} GB of {free / 1e9:.1f} GB free at {place.parent}"
                )
            elif missing:
                check_stored_integrals(database, missing[0])
                done = len(rows) - len(missing)
                if processes is None:
                    processes = available_cores() if len(missing) > _WORTH_PROCESSES else 1
                processes = min(processes, len(missing))
                report(
                    f"computing {kind.title} of {len(missing)} molecules for {place}; processes: {processes}"
                )
                _compute_into(cache, database, missing, processes, lambda n: on_progress(done + n, len(rows)))
        except BaseException:
            cache.close()
            raise
        finally:
            lock.unlink()
    return CachedMolecules(database, kind, cache)


def _complete_cache(
    path: Path, kind: Entries[Entry], about: str, rows: Sequence[int]
) -> MoleculeCache[Entry] | None:
    """The cache at a path if it has all rows; None otherwise."""
    with suppress(TraceGradError):
        cache = MoleculeCache(path, kind, about)
        if len(cache.present(rows)) == len(rows):
            return cache
        cache.close()
    return None


def _writable_cache(
    path: Path, kind: Entries[Entry], about: str, rows: Sequence[int], report: Callable[[str], None]
) -> MoleculeCache[Entry]:
    """The cache at a path, opened for writing; a file that is no cache of this database is replaced."""
    try:
        cache = MoleculeCache(path, kind, about, create=True)
        cache.present(rows)  # raises if the file is damaged
        return cache
    except DamagedCache as error:
        if not path.name.endswith(kind.suffix):  # perhaps a valuable file of the user
            raise DataError(
                f"{error}; remove the file if it is a cache of {kind.title}, or choose another {kind.setting}"
            ) from error
        report(f"{error}; it is built anew")
    remove(path)
    return MoleculeCache(path, kind, about, create=True)


def _compute_into(
    cache: MoleculeCache[Entry],
    database: MoleculeDatabase,
    rows: Sequence[int],
    processes: int,
    on_progress: Callable[[int], None],
) -> None:
    waiting: list[tuple[int, Entry]] = []
    on_progress(0)
    compute = partial(_compute, database, cache.kind)
    try:
        for done, (n, entry) in enumerate(map_unordered(compute, rows, processes), 1):
            waiting.append((rows[n], entry))
            if len(waiting) == COMMIT:
                cache.add(waiting)
                waiting = []
            on_progress(done)
    except WorkerDied as error:
        place = f" at row {rows[error.key]}" if error.key >= 0 else ""
        raise TraceGradError(
            f"{database.path}: a process that computes {cache.kind.title} died{place} ({error}); use fewer processes "
            "if memory was short"
        ) from error
    finally:
        cache.add(waiting)


def _compute(database: MoleculeDatabase, kind: Entries[Entry], row: int) -> Entry:
    return kind.compute(database[row], f"{database.path}: row {row}")
