"""Caches of databases of crystals: where they are, whether they are up to date, and when they are built.

A structure folder has one HDF5 dataset for each block; reading it takes hundreds of times as long as reading the same
numbers at once, as from a cache (`tracegrad.data.cache.file`).

A cache is valid as long as the files of its structures have the bytes from which it was built. Hashing all bytes at
each start would take as long as reading the database. Therefore the cache has a *stamp* of each structure, a hash of
the names, sizes and times (mtime and ctime) of its files. The content is hashed only if the stamp differs; if the
content has not changed, for example after copying a database, the cache stores the new stamp. The ctime, which
programs cannot set, distinguishes files of the same size with an mtime that was set by an archive or a copy.

While a cache is built, ``<cache>.part`` holds the structures read so far, and the building process holds a lock
(flock) on it, which ends with the process. A build that was interrupted continues with the structures whose files
have not changed; so does a build after structures were changed, added or removed.
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
from tracegrad.data.cache.stamps import ContentHashes, stamps_of
from tracegrad.data.crystals.database import CrystalDatabase
from tracegrad.errors import ConfigError, TraceGradError
from tracegrad.system.locks import take_lock
from tracegrad.system.whole_files import sync

AUTO = "auto"
SUFFIX = ".tracegrad-cache"


def cache_paths(source: str | Path, setting: str, include: str | Sequence[str] = "*") -> list[Path]:
    """Possible paths of the cache of a database, in order of preference.

    Args:
        source: path of the database.
        setting: a path, or "auto": beside a folder, then in ``$XDG_CACHE_HOME/tracegrad`` or ``~/.cache/tracegrad``;
            packed files have no cache with "auto".
        include: patterns of names, as of `CrystalDatabase`; each set of patterns has a separate cache.
    """
    if setting != AUTO:
        return [Path(setting).expanduser()]
    if os.path.isfile(source):
        return []
    return cache_places(source, [include] if isinstance(include, str) else sorted(include), SUFFIX)


def cache_places(source: str | Path, key: Sequence[str], suffix: str) -> list[Path]:
    """Paths with a hash of ``key``: beside a file or folder, and in the cache folder of the user.

    Nothing is written beside files that belong to the installed package.
    """
    path = Path(os.path.abspath(source))
    base = os.environ.get("XDG_CACHE_HOME", "")
    home = Path(base if os.path.isabs(base) else os.path.expanduser("~/.cache")) / "tracegrad"
    places = ((path.parent, key), (home, [str(path), *key]))
    paths = [place / f"{path.name}-{_short_hash(parts)}{suffix}" for place, parts in places]
    return paths[1:] if path.is_relative_to(str(resources.files("tracegrad"))) else paths


def open_cache(
    database: CrystalDatabase,
    paths: Sequence[Path],
    dtype: str = "float64",
    report: Callable[[str], None] = lambda line: None,
) -> CrystalCache | None:
    """The first valid cache of the database with at least the precision ``dtype`` (float32 or float64), or None.

    ``report`` prints why a cache cannot be used.

    Raises:
        DataError: a file at one of the paths is no cache or cannot be read.
    """
    for path in paths:
        if not os.path.lexists(path):
            continue
        try:
            cache = CrystalCache(path)
        except UnusableCache as error:
            report(f"{error}; it is built again")
            continue
        reason = _outdated(database, cache, dtype)
        if reason is None:
            return cache
        report(f"{path}: {reason}; it is built again")
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
    """The valid cache, which is built if necessary at the first path that can be written.

    Returns None if none of several paths can be written; a single path is tried in any case. A folder without write
    permission for anybody is not used, not even by root. For the other arguments see `build_cache`.
    """
    cache = open_cache(database, paths, dtype)
    if cache is not None or not paths:
        return cache
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
    """The cache at ``path``, which is built unless it is valid.

    Args:
        database: the database, with Hamiltonians.
        path: path of the cache. If another process is building it, this one waits.
        dtype: precision of the Hamiltonians: float64 keeps them exactly, float32 halves the file.
        processes: number of processes that read structures; None: one for each core, or only this one for little
            data.
        report: prints lines about what is done and why.
        on_progress: called with the numbers of structures done and of all.

    Raises:
        DataError: a structure is damaged; the structures read before are kept for the next build.
        TraceGradError: the file cannot be written, or a worker process died.
    """
    if processes is not None and processes < 1:
        raise ConfigError(f"processes is {processes}; at least 1 is needed")
    cache = open_cache(database, [path], dtype, report)
    if cache is not None:
        return cache
    part = path.with_name(f"{path.name}.part")
    kept = 0
    try:
        with build_lock(part, str(path), report) as file:
            cache = open_cache(
                database, [path], dtype
            )  # another process may have built it while this one waited
            if cache is not None:
                part.unlink()
                return cache
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


def _outdated(database: CrystalDatabase, cache: CrystalCache, dtype: str) -> str | None:
    """Why a cache is not valid, or None; if only times of files have changed, the cache stores the new stamps."""
    names = set(cache.names)
    added, removed = len(set(database.names) - names), len(names - set(database.names))
    if added or removed:
        return f"{added} structures have been added and {removed} removed"
    double = dtype == "float64"
    if double and any(entry.dtype != entry_dtype(dtype, entry.spinful) for entry in cache.entries):
        return "its numbers are float32, but float64 is needed"
    stamps, contents = stamps_of(database), ContentHashes(database)
    suspects = [row for row, stamp in enumerate(stamps) if stamp != cache.stamps[row]]
    changed = [row for row in suspects if contents[database.names[row]] != cache.entries[row].content]
    if changed:
        return f"{len(changed)} structures have changed, the first one {database.names[changed[0]]}"
    if suspects:
        cache.restamp(stamps)
    return None


@contextmanager
def build_lock(part: Path, what: str, report: Callable[[str], None]) -> Iterator[FileIO]:
    """Wait for the exclusive lock on a file and open the file.

    Args:
        part: the unfinished file, or a lock file.
        what: what the lock protects, for messages.
        report: prints a line if another process holds the lock.
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
    """Whether files can be created in a folder, or, if it does not exist, in its nearest existing parent."""
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    mode = existing.stat().st_mode
    return existing.is_dir() and bool(mode & 0o222) and os.access(existing, os.W_OK | os.X_OK)
