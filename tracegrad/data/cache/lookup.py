"""Caches of databases of crystals: where they are, whether they are up to date, and when they are built.

A structure folder has one HDF5 dataset for each block; reading it takes hundreds of times as long as reading the same
numbers at once, as from a cache (`tracegrad.data.cache.store`).

A cache is valid as long as the files of its structures have the bytes from which it was built. Hashing all bytes at
each start would take as long as reading the database. Therefore the cache has a *stamp* of each structure, a hash of
the names, sizes and times (mtime and ctime) of its files. The content is hashed only if the stamp differs; if the
content has not changed, for example after copying a database, the cache stores the new stamp. The ctime, which
programs cannot set, distinguishes files of the same size with an mtime that was set by an archive or a copy.

While a cache is built, the building process holds a lock (flock), which ends with the process. A build that was
interrupted continues with the structures whose files have not changed; so does a build after structures were changed,
added or removed.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from io import FileIO
from pathlib import Path

from tracegrad.data.cache.build import build, discard_empty
from tracegrad.data.cache.cached_crystals import CrystalCache, is_former_cache, is_unfinished
from tracegrad.data.cache.stamps import ContentHashes, stamp_of
from tracegrad.data.cache.store import LOCK, UnusableCache
from tracegrad.data.crystal_files.database import CrystalDatabase
from tracegrad.errors import ConfigError, TraceGradError
from tracegrad.system.locks import take_lock
from tracegrad.system.whole_files import writable

AUTO = "auto"
SUFFIX = ".tracegrad-cache"


def cache_paths(
    source: str | Path,
    setting: str,
    include: str | Sequence[str] = "*",
    spin: str | None = None,
    *,
    h0: bool = False,
) -> list[Path]:
    """Possible paths of the cache of a database, in order of preference.

    Args:
        setting: a path, or "auto": beside a folder, then in ``$XDG_CACHE_HOME/tracegrad`` or ``~/.cache/tracegrad``;
            packed files have no cache with "auto".
        include: patterns of names, as of `CrystalDatabase`; each set of patterns has a separate cache.
        spin, h0: as of `CrystalDatabase`; each choice has a separate cache, with its name behind a given path.
    """
    if setting != AUTO:
        path = Path(setting).expanduser()
        return [path.with_name("-".join([path.name, *([spin] if spin else []), *(["h0"] if h0 else [])]))]
    if os.path.isfile(source):
        return []
    patterns = [include] if isinstance(include, str) else sorted(include)
    choices = [*([] if spin is None else [f"spin {spin}"]), *(["h0"] if h0 else [])]
    return cache_places(source, [*patterns, *choices], SUFFIX)


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
        DataError: what is at one of the paths is no cache or cannot be read.
    """
    for path in paths:
        if not os.path.lexists(path) or is_unfinished(path):
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
        path: folder of the cache. If another process is building it, this one waits.
        dtype: precision of the Hamiltonians: float64 keeps them exactly, float32 halves the file.
        processes: number of processes that read structures; None: one for each core, or only this one for little
            data.
        report: prints lines about what is done and why.
        on_progress: called with the numbers of structures done and of all.

    Raises:
        DataError: a structure is damaged; the structures read before are kept for the next build.
        TraceGradError: a file cannot be written, or a worker process died.
    """
    if processes is not None and processes < 1:
        raise ConfigError(f"processes is {processes}; at least 1 is needed")
    cache = open_cache(database, [path], dtype, report)
    if cache is not None:
        return cache
    try:
        for former in (path, path.with_name(f"{path.name}.part")):
            if is_former_cache(former):
                former.unlink(missing_ok=True)
        with build_lock(path / LOCK, str(path), report):
            cache = open_cache(database, [path], dtype)  # another process may have built it meanwhile
            if cache is None:
                try:
                    build(database, path, dtype, processes, report, on_progress)
                except BaseException:
                    discard_empty(path)
                    raise
            (path / LOCK).unlink()
    except OSError as error:
        raise TraceGradError(
            f"{path}: cannot be written ({error.strerror or error}); make room, choose another data.cache, or set it "
            "to null to read the database itself"
        ) from error
    return cache or CrystalCache(path)


def _outdated(database: CrystalDatabase, cache: CrystalCache, dtype: str) -> str | None:
    """Why a cache is not valid, or None; if only times of files have changed, the cache stores the new stamps."""
    names = set(cache.names)
    added, removed = len(set(database.names) - names), len(names - set(database.names))
    if added or removed:
        return f"{added} structures have been added and {removed} removed"
    if dtype == "float64" and any(entry.dtype != dtype for entry in cache.entries):
        return "its numbers are float32, but float64 is needed"
    files = [database.files(name) for name in cache.names]
    stamps, content_of = list(map(stamp_of, files)), ContentHashes()
    suspects = [row for row, stamp in enumerate(stamps) if stamp != cache.entries[row].stamp]
    changed = [row for row in suspects if content_of(files[row]) != cache.entries[row].content]
    if changed:
        return f"{len(changed)} structures have changed, the first one {cache.names[changed[0]]}"
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
