"""Building a cache: structures are read in parallel, and one process appends them to the unfinished file."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from io import FileIO
from pathlib import Path

from tracegrad.data.cache.file import (
    MAGIC,
    CacheEntry,
    append,
    entry_dtype,
    finish,
    read_at,
    record_end,
    record_of,
    records,
    start,
)
from tracegrad.data.cache.stamps import ContentHashes, source_files, stamp_of, stamps_of
from tracegrad.data.crystals.database import CrystalDatabase
from tracegrad.errors import DataError, TraceGradError
from tracegrad.system.cores import available_cores
from tracegrad.system.workers import TaskFailure, WorkerDied, WorkerPool

_PARALLEL_BYTES = (
    1e8  # size of HDF5 files from which several processes read them; one needs about ten seconds
)


class CacheBuild:
    """An unfinished cache, and the structures that it already holds.

    Args:
        database: the database.
        dtype: float32 or float64, precision of the Hamiltonians.
        file: the unfinished file, open and locked.
        path: its path.

    Raises:
        DataError: the file is not an unfinished cache.
    """

    def __init__(self, database: CrystalDatabase, dtype: str, file: FileIO, path: Path):
        head = read_at(file, 0, len(MAGIC))
        if head != MAGIC[: len(head)]:
            raise DataError(
                f"{path}: no unfinished cache of TraceGrad; remove the file or choose another data.cache"
            )
        self.database, self.dtype, self.file, self.path = database, dtype, file, path
        self.stamps = dict(zip(database.names, stamps_of(database), strict=True))
        self.contents = ContentHashes(database)
        self.entries: dict[str, CacheEntry] = {}
        self.end = 0

    def resume(self, old: Path) -> None:
        """Keep the valid structures of the unfinished file, and copy valid ones from the outdated cache ``old``."""
        for entry, _ in records(self.file):
            self.end = record_end(entry)
            self._take(entry)
        if not self.end:
            self.end = start(self.file)
        self.file.truncate(self.end)
        with suppress(FileNotFoundError), FileIO(old) as former:
            for entry, arrays in records(former):
                if entry.name not in self.entries and self._is_current(entry):
                    self.add(entry, arrays)
                    self._take(self.entries[entry.name])

    def add(self, entry: CacheEntry, arrays: bytes | memoryview) -> None:
        """Append a structure."""
        self.entries[entry.name], self.end = append(self.file, self.end, entry, arrays)

    def read(
        self, processes: int | None, report: Callable[[str], None], on_progress: Callable[[int, int], None]
    ) -> None:
        """Read the structures that are missing."""
        names = self.database.names
        rows = [row for row, name in enumerate(names) if name not in self.entries]
        if processes is None:
            processes = available_cores() if self._bytes(rows) > _PARALLEL_BYTES else 1
        processes = min(processes, len(rows))
        kept = f", {len(self.entries)} of them kept from before" if self.entries else ""
        report(f"building the cache of {len(names)} structures{kept}; processes: {max(processes, 1)}")
        on_progress(len(self.entries), len(names))
        for entry, arrays in _read_all(_StructureReader(self.database, self.dtype), rows, processes):
            self.add(entry, arrays)
            on_progress(len(self.entries), len(names))

    def finish(self) -> None:
        """Write the index, which makes the file complete."""
        finish(self.file, self.end, [self.entries[name] for name in self.database.names])

    def keep(self) -> int:
        """Cut off an incomplete record after an error, and remove the file if it is empty.

        Returns:
            The number of structures in the unfinished file.
        """
        with suppress(OSError):
            self.file.truncate(self.end)
            if not self.entries:
                self.path.unlink()
        return len(self.entries)

    def _bytes(self, rows: Sequence[int]) -> int:
        """Total size of the Hamiltonian files of these rows."""
        files = {source_files(self.database, self.database.names[row])[-1] for row in rows}
        return sum(path.stat().st_size for path in files if path.exists())

    def _take(self, entry: CacheEntry) -> None:
        """Use the record of a structure if its files have not changed."""
        if self._is_current(entry):
            self.entries[entry.name] = replace(entry, stamp=self.stamps[entry.name])

    def _is_current(self, entry: CacheEntry) -> bool:
        stamp = self.stamps.get(entry.name)
        if stamp is None or entry.dtype != entry_dtype(self.dtype, entry.spinful):
            return False
        return entry.stamp == stamp or self.contents[entry.name] == entry.content


class _StructureReader:
    """Reads a structure of a database and returns its record; can be sent to worker processes."""

    def __init__(self, database: CrystalDatabase, dtype: str):
        self.database, self.dtype = database, dtype
        self.contents = ContentHashes(database)

    def __call__(self, row: int) -> tuple[CacheEntry, bytes]:
        name = self.database.names[row]
        files = source_files(self.database, name)
        before = stamp_of(files)
        structure, content = self.database[row], self.contents[name]
        if stamp_of(files) != before:
            raise DataError(
                f"{files[-1]}: changed while it was read; build the cache when nothing writes there"
            )
        return record_of(structure, self.dtype, before, content)


def _read_all(
    reader: _StructureReader, rows: Sequence[int], processes: int
) -> Iterator[tuple[CacheEntry, bytes]]:
    """Records of the rows, in the order in which they are finished."""
    if processes <= 1:
        yield from map(reader, rows)
        return
    queue = deque(rows)
    try:
        with WorkerPool(processes) as pool:
            for n in range(pool.idle):  # all workers are idle, so that each of them gets the reader once
                pool.submit(n, _keep, reader)
            while pool.busy:
                for _, result in pool.finished(timeout=0.5):
                    if isinstance(result, TaskFailure):
                        raise DataError(result.reason)
                    if result is not None:
                        yield result
                for _ in range(min(pool.idle, len(queue))):
                    row = queue.popleft()
                    pool.submit(row, _read, row)
    except WorkerDied as error:
        raise TraceGradError(
            f"{reader.database.path}: a process that reads structures died ({error}); build the cache with fewer "
            "processes if memory was short"
        ) from error


_kept: list[_StructureReader] = []  # the reader of a worker process


def _keep(reader: _StructureReader) -> None:
    _kept[:] = [reader]


def _read(row: int) -> tuple[CacheEntry, bytes]:
    return _kept[0](row)
