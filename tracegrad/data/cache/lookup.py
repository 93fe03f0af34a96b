"""Caches of databases of crystals: where they lie, whether they still fit, and how they are built.

Reading a folder takes one HDF5 dataset for each block, hundreds of times as long as reading the same numbers in one
piece. A cache (`tracegrad.data.cache.file`) is read in one piece.

A cache fits as long as the bytes of all files of its structures are those it was built from. To hash them whenever it
is opened would take as long as reading them, so it keeps a stamp of each structure: a hash of names, sizes and times
(of modification and of change) of its files. Only where the stamp differs is the content hashed; if that is the same,
as after copying a database, the cache keeps the new stamp. The time of change, which no program can set, tells apart
files of the same size whose time of modification an archive or a copy has set.

While a cache is built, ``<cache>.part`` holds the structures read so far, and the process that builds holds a lock
(flock) on it, which ends with the process. A build that was stopped goes on with those whose files are the same, and
so does one after some structures were changed, added or removed.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from io import FileIO
from pathlib import Path

from tracegrad.data.cache.build import CacheBuild
from tracegrad.data.cache.cached_crystals import CrystalCache
from tracegrad.data.cache.file import UnusableCache, entry_dtype
from tracegrad.data.cache.stamps import Contents, stamps_of
from tracegrad.data.crystals.database import CrystalDatabase
from tracegrad.errors import ConfigError, TraceGradError
from tracegrad.system.locks import take_lock
from tracegrad.system.whole_files import sync

AUTO = "auto"
SUFFIX = ".tracegrad-cache"


def cache_paths(source: str | Path, setting: str, include: str | Sequence[str] = "*") -> list[Path]:
    """Where the cache of a database may lie, the first place first.

    Args:
        source: path of the database.
        setting: "auto" or a path. Auto is beside a folder, then below ``$XDG_CACHE_HOME/tracegrad`` or
            ``~/.cache/tracegrad``; packed files have no such places, they are read as they are.
        include: patterns of names, as of `CrystalDatabase`; each set of them has a cache of its own.
    """
    if setting != AUTO:
        return [Path(setting).expanduser()]
    if os.path.isfile(source):
        return []
    return cache_places(source, [include] if isinstance(include, str) else sorted(include), SUFFIX)


def cache_places(source: str | Path, key: Sequence[str], suffix: str) -> list[Path]:
    """A name that tells keys apart, beside a file or folder, and then in the user's folder for caches.

    What comes with TraceGrad has no place beside it: the folder of the package is left alone.
    """
    path = Path(os.path.abspath(source))
    base = os.environ.get("XDG_CACHE_HOME", "")
    home = Path(base if os.path.isabs(base) else os.path.expanduser("~/.cache")) / "tracegrad"
    places = ((path.parent, key), (home, [str(path), *key]))
    found = [place / f"{path.name}-{_short_hash(parts)}{suffix}" for place, parts in places]
    return found[1:] if path.is_relative_to(str(resources.files("tracegrad"))) else found


def open_cache(
    database: CrystalDatabase,
    paths: Sequence[Path],
    dtype: str = "float64",
    report: Callable[[str], None] = lambda line: None,
) -> CrystalCache | None:
    """The first cache that fits the database and has at least the precision ``dtype`` (float32 or float64).

    Raises:
        DataError: a file there is no cache or cannot be read.
    """
    for path in paths:
        if not os.path.lexists(path):
            continue
        try:
            cache = CrystalCache(path)
        except UnusableCache as error:
            report(f"{error}; it is built anew")
            continue
        reason = _misfit(database, cache, dtype)
        if reason is None:
            return cache
        report(f"{path}: {reason}; it is built anew")
    return None


def prepare_cache(
    database: CrystalDatabase,
    paths: Sequence[Path],
    dtype: str = "float64",
    *,
    processes: int | None = None,
    report: Callable[[str], None] = lambda line: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> CrystalCache | None:
    """The cache that fits, built at the first of several places that can be written if there is none.

    Without such a place there is no cache; a single place is tried in any case. A folder whose mode lets nobody write
    is left alone, by root too.
    """
    found = open_cache(database, paths, dtype)
    if found is not None or not paths:
        return found
    place = next((path for path in paths if writable(path.parent)), None)
    if place is None and len(paths) > 1:
        folders = " and ".join(str(path.parent) for path in paths)
        report(f"no cache, because {folders} cannot be written; give data.cache=PATH to have one")
        return None
    return build_cache(
        database, place or paths[0], dtype, processes=processes, report=report, on_progress=on_progress
    )


def build_cache(
    database: CrystalDatabase,
    path: Path,
    dtype: str = "float64",
    *,
    processes: int | None = None,
    report: Callable[[str], None] = lambda line: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> CrystalCache:
    """Write a cache, whole or not at all, unless the one there fits.

    Args:
        database: with Hamiltonians.
        path: of the cache. Another process that builds it is waited for.
        dtype: of the Hamiltonians: float64 keeps them as they are, float32 halves the file.
        processes: that read structures; None: one for each core, or this one alone for little data.
        report: gets lines about what is done and why.
        on_progress: called with the number of structures done and of all.

    Raises:
        DataError: a structure is damaged; those read before it are kept for the next build.
        TraceGradError: the file cannot be written, or a worker process died.
    """
    if processes is not None and processes < 1:
        raise ConfigError(f"processes is {processes}; at least 1 is needed")
    found = open_cache(database, [path], dtype, report)
    if found is not None:
        return found
    part = path.with_name(f"{path.name}.part")
    kept = 0
    try:
        with locked(part, str(path), report) as file:
            found = open_cache(database, [path], dtype)  # of a process that was waited for
            if found is not None:
                part.unlink()
                return found
            build = CacheBuild(database, dtype, file, part)
            try:
                build.resume(path)
                build.read(processes, report, on_progress)
                build.finish()
            except BaseException:
                kept = build.keep()
                raise
            part.replace(path)
            sync(path.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise TraceGradError(
            f"{path}: cannot be written ({reason}; {kept} structures are kept for the next build); make room, "
            "choose another data.cache, or set it to null to read the database itself"
        ) from error
    return CrystalCache(path)


def _misfit(database: CrystalDatabase, cache: CrystalCache, dtype: str) -> str | None:
    """Why a cache does not fit, or None; unchanged files with other times are no reason."""
    names = set(cache.names)
    added, removed = len(set(database.names) - names), len(names - set(database.names))
    if added or removed:
        return f"{added} structures have been added and {removed} removed"
    double = dtype == "float64"
    if double and any(entry.dtype != entry_dtype(dtype, entry.spinful) for entry in cache.entries):
        return "its numbers are float32, but float64 is wanted"
    stamps, contents = stamps_of(database), Contents(database)
    suspects = [row for row, stamp in enumerate(stamps) if stamp != cache.stamps[row]]
    changed = [row for row in suspects if contents[database.names[row]] != cache.entries[row].content]
    if changed:
        return f"{len(changed)} structures have changed, the first one {database.names[changed[0]]}"
    if suspects:
        cache.restamp(stamps)
    return None


@contextmanager
def locked(part: Path, what: str, report: Callable[[str], None]) -> Iterator[FileIO]:
    """An unfinished file or one that stands for it, open and locked; a process that holds it is waited for.

    ``what`` is what the lock protects, as messages call it.
    """
    waited = False
    while (descriptor := take_lock(part, patience=0.2)) is None:
        if not waited:
            report(f"another process builds {what}; waiting for it")
        waited = True
    with FileIO(descriptor, "r+") as file:
        yield file


def _short_hash(key: Sequence[str]) -> str:
    return hashlib.blake2b(json.dumps(list(key)).encode(), digest_size=4).hexdigest()


def writable(folder: Path) -> bool:
    """Whether a file can be made in a folder, or in the nearest one above it that exists."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return there.is_dir() and bool(there.stat().st_mode & 0o222) and os.access(there, os.W_OK | os.X_OK)
