"""Files and folders that are complete or absent: written under a temporary name beside their place, then renamed."""

import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tracegrad.errors import TraceGradError

# A temporary file that has not changed for this time (seconds) is a remnant of a killed process.
_ABANDONED = 24 * 3600.0
# Errors that only writing can raise, wherever in the block they occur.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary file that replaces ``path`` when the block ends without an error.

    It exists, empty, when the block begins. Missing folders are created.

    Raises:
        TraceGradError: the folder or file cannot be written. Other errors of the block are passed on as they are.
    """
    path = Path(path)
    draft = _draft(path)
    try:
        with _write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(path)
            os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        try:
            yield draft
        except OSError as error:
            if error.errno in _NO_ROOM or error.filename in (str(draft), draft):
                raise _cannot_write(path, error) from error
            raise
        with _write_errors(path):
            sync(draft)
            draft.replace(path)
    finally:
        _remove(draft)


@contextmanager
def replacing_folder(folder: str | Path) -> Iterator[Path]:
    """A temporary folder that replaces ``folder`` when the block ends without an error.

    The former folder is removed only after the new one is in its place. A process that is killed between the two
    renames leaves the former folder as ``.NAME.replaced``; `restore_folder` restores it, and so does the next
    replacement. Missing parent folders are created.

    Raises:
        TraceGradError: the folder cannot be written. Other errors of the block are passed on as they are.
    """
    folder = Path(os.path.abspath(folder))
    draft = _draft(folder)
    try:
        with _write_errors(folder):
            restore_folder(folder)
            folder.parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(folder)
            draft.mkdir()
        try:
            yield draft
        except OSError as error:
            if error.errno in _NO_ROOM or Path(error.filename or "/").is_relative_to(draft):
                raise _cannot_write(folder, error) from error
            raise
        with _write_errors(folder):
            take_place(draft, folder)
    finally:
        _remove(draft)


def take_place(new: Path, place: Path) -> None:
    """Move a finished file or folder to ``place``; a file or folder that is there is removed afterwards.

    Raises:
        OSError: it cannot be moved; the former content of ``place`` is restored.
    """
    place = Path(os.path.abspath(place))
    sync_tree(new)
    old = _replaced(place)
    try:
        if place.is_dir() or (new.is_dir() and os.path.lexists(place)):
            _remove(old)  # remnant of a replacement that was killed at its end
            place.rename(old)
        new.replace(place)
        sync(place.parent)
    finally:
        restore_folder(place)
    _remove(old)


def restore_folder(folder: str | Path) -> None:
    """Restore a folder if `replacing_folder` was killed before the new one was in place.

    Raises:
        OSError: the former folder cannot be renamed.
    """
    folder = Path(os.path.abspath(folder))
    old = _replaced(folder)
    if os.path.lexists(old) and not os.path.lexists(folder):
        old.rename(folder)


def restore_inside(folder: Path) -> None:
    """`restore_folder` for all entries of a folder, as far as permissions allow."""
    start, end = len("."), len(".replaced")
    with suppress(OSError):
        hidden = [name for name in os.listdir(folder) if name.startswith(".") and name.endswith(".replaced")]
        for name in hidden:
            restore_folder(folder / name[start:-end])


def sync_tree(path: Path) -> None:
    """`sync` of a file, or of a folder and everything in it."""
    for folder, _, names in os.walk(path):
        for name in names:
            entry = Path(folder, name)
            if not entry.is_symlink():
                sync(entry)
        sync(Path(folder))
    if not path.is_dir():
        sync(path)


def sync(path: Path) -> None:
    """Write a file or folder to the disk, so that after a crash a later rename never shows incomplete content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def writable(folder: Path) -> bool:
    """Whether files can be created in a folder, or, if it does not exist, in its nearest existing parent.

    A folder without write permission for anybody counts as not writable, even for root.
    """
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    mode = existing.stat().st_mode
    return existing.is_dir() and bool(mode & 0o222) and os.access(existing, os.W_OK | os.X_OK)


def _draft(path: Path) -> Path:
    """A random temporary name: threads, processes and hosts may write the same file at the same time."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")


def _replaced(folder: Path) -> Path:
    """Name of the former content of a folder during its replacement."""
    return folder.with_name(f".{folder.name}.replaced")


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
    shutil.rmtree(path, ignore_errors=True)


def _remove_abandoned(path: Path) -> None:
    """Remove old temporary files and folders of this path."""
    name, now = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{12}}\.tmp"), time.time()
    with os.scandir(path.parent) as entries:
        drafts = [entry for entry in entries if name.fullmatch(entry.name)]
    for entry in drafts:
        with suppress(OSError):
            if now - entry.stat(follow_symlinks=False).st_mtime > _ABANDONED:
                _remove(Path(entry.path))


@contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    """Raise `TraceGradError` with the path for errors of the operating system in the block."""
    try:
        yield
    except OSError as error:
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> TraceGradError:
    return TraceGradError(f"{path}: cannot be written ({error.strerror or error}); choose another place")
