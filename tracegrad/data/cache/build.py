"""Building a cache: structures are read in parallel, each by a process that writes its file."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from tracegrad.data.cache.stamps import ContentHashes, stamp_of
from tracegrad.data.cache.store import INDEX, LOCK, SUFFIX, CacheEntry, read_entry, write_entry, write_index
from tracegrad.data.crystal_files.database import CrystalDatabase
from tracegrad.errors import DataError, TraceGradError
from tracegrad.system.cores import available_cores
from tracegrad.system.parallel import map_unordered
from tracegrad.system.workers import WorkerDied

# Size of the Hamiltonian files from which several processes read them; one needs about ten seconds.
_PARALLEL_BYTES = 1e8


def build(
    database: CrystalDatabase,
    folder: Path,
    dtype: str,
    processes: int | None,
    report: Callable[[str], None],
    on_progress: Callable[[int, int], None],
) -> None:
    """Write the files that are missing in a cache, its index, and remove all other files.

    Files of structures that have not changed are kept, those of an interrupted build as well; so are all files if an
    error ends the build. The caller holds the lock.

    Raises:
        DataError: a structure is damaged.
        TraceGradError: a file cannot be written, or a worker process died.
    """
    entries = _valid_entries(database, folder, dtype)
    kept = f", {len(entries)} of them kept from before" if entries else ""
    rows = [row for row, name in enumerate(database.names) if name not in entries]
    if processes is None:
        processes = available_cores() if _bytes(database, rows) > _PARALLEL_BYTES else 1
    processes = max(min(processes, len(rows)), 1)
    report(f"building the cache of {len(database)} structures{kept}; processes: {processes}")
    on_progress(len(entries), len(database))
    try:
        for _, entry in map_unordered(_EntryWriter(database, folder, dtype), rows, processes):
            entries[entry.name] = entry
            on_progress(len(entries), len(database))
    except WorkerDied as error:
        raise TraceGradError(
            f"{database.path}: a process that reads structures died ({error}); build the cache with fewer "
            "processes if memory was short"
        ) from error
    write_index(folder, [entries[name] for name in database.names])
    used = {entry.file for entry in entries.values()} | {INDEX, LOCK}
    for path in folder.iterdir():
        if path.name not in used:
            path.unlink()


def discard_empty(folder: Path) -> None:
    """Remove the folder of a build that has not written a structure."""
    if not any(folder.glob(f"*{SUFFIX}")):
        with suppress(OSError):
            (folder / LOCK).unlink()
            folder.rmdir()


class _EntryWriter:
    """Reads a structure of a database and writes its file; can be sent to worker processes."""

    def __init__(self, database: CrystalDatabase, folder: Path, dtype: str):
        self.database, self.folder, self.dtype = database, folder, dtype
        self.content_of = ContentHashes()

    def __call__(self, row: int) -> CacheEntry:
        files = self.database.files(self.database.names[row])
        before = stamp_of(files)
        structure, content = self.database[row], self.content_of(files)
        if stamp_of(files) != before:
            raise DataError(
                f"{files[-1]}: changed while it was read; build the cache when nothing writes there"
            )
        return write_entry(self.folder, structure, self.dtype, before, content)


def _valid_entries(database: CrystalDatabase, folder: Path, dtype: str) -> dict[str, CacheEntry]:
    """Entries of the files in a cache whose structures have not changed, with the present stamps."""
    files = {name: database.files(name) for name in database.names}
    content_of = ContentHashes()
    entries: dict[str, CacheEntry] = {}
    for path in folder.glob(f"*{SUFFIX}"):
        entry = read_entry(path)
        if entry is None or entry.name not in files or entry.dtype != dtype:
            continue
        stamp = stamp_of(files[entry.name])
        if entry.stamp == stamp or entry.content == content_of(files[entry.name]):
            entries[entry.name] = replace(entry, stamp=stamp)
    return entries


def _bytes(database: CrystalDatabase, rows: Sequence[int]) -> int:
    """Total size of the Hamiltonian files of these rows."""
    files = {database.files(database.names[row])[-1] for row in rows}
    return sum(path.stat().st_size for path in files if path.exists())
