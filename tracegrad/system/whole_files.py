"""Files and folders that are whole or absent: written beside their place and then renamed."""

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

# A draft that nobody has touched for so long (seconds) was left by a process that was killed.
_ABANDONED = 24 * 3600.0
# Errors that only writing raises, wherever in the block they come from.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary file that takes the place of ``path`` once the block ends without an error.

    The temporary file exists, empty, when the block begins. Missing folders are made.

    Raises:
        TraceGradError: the folder or file cannot be written. Other errors of the block are passed on as they are.
    """
    path = Path(path)
    draft = _draft(path)
    try:
        with _named(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(path)
            os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        try:
            yield draft
        except OSError as error:
            if error.errno in _NO_ROOM or error.filename in (str(draft), draft):
                raise _cannot_write(path, error) from error
            raise
        with _named(path):
            sync(draft)
            draft.replace(path)
    finally:
        _remove(draft)


@contextmanager
def replacing_folder(folder: str | Path) -> Iterator[Path]:
    """A temporary folder that takes the place of ``folder`` once the block ends without an error.

    What ``folder`` held until then is removed only after the new content stands in its place. A process that is
    killed between the two renames leaves the former content as ``.NAME.replaced``; `restore_folder` brings it back,
    and the next replacement does so first. Missing parent folders are made.

    Raises:
        TraceGradError: the folder cannot be written. Other errors of the block are passed on as they are.
    """
    folder = Path(os.path.abspath(folder))
    draft = _draft(folder)
    try:
        with _named(folder):
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
        with _named(folder):
            take_place(draft, folder)
    finally:
        _remove(draft)


def take_place(new: Path, place: Path) -> None:
    """Move a finished file or folder to ``place``, whatever stands there; that goes once ``new`` has its place.

    Raises:
        OSError: it cannot be moved; what was in the place is there again.
    """
    place = Path(os.path.abspath(place))
    sync_tree(new)
    old = _replaced(place)
    try:
        if place.is_dir() or (new.is_dir() and os.path.lexists(place)):
            _remove(old)  # of a replacement that was killed at its very end
            place.rename(old)
        new.replace(place)
        sync(place.parent)
    finally:
        restore_folder(place)
    _remove(old)


def restore_folder(folder: str | Path) -> None:
    """Bring back the former content of a folder where `replacing_folder` was killed before the new one was in place.

    Raises:
        OSError: it cannot be renamed; it stays where it is.
    """
    folder = Path(os.path.abspath(folder))
    old = _replaced(folder)
    if os.path.lexists(old) and not os.path.lexists(folder):
        old.rename(folder)


def restore_inside(folder: Path) -> None:
    """`restore_folder` of all that has been replaced in a folder, as far as this process may."""
    start, end = len("."), len(".replaced")
    with suppress(OSError):
        hidden = [name for name in os.listdir(folder) if name.startswith(".") and name.endswith(".replaced")]
        for name in hidden:
            restore_folder(folder / name[start:-end])


def sync_tree(path: Path) -> None:
    """`sync` of a file, or of a folder with all that is in it."""
    for folder, _, names in os.walk(path):
        for name in names:
            entry = Path(folder, name)
            if not entry.is_symlink():
                sync(entry)
        sync(Path(folder))
    if not path.is_dir():
        sync(path)


def sync(path: Path) -> None:
    """Bring a file or folder to the disk, so that a later rename cannot outlive its content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _draft(path: Path) -> Path:
    """A name of its own for each call: threads, processes and hosts may write the same file at once."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")


def _replaced(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.replaced")


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
    shutil.rmtree(path, ignore_errors=True)


def _remove_abandoned(path: Path) -> None:
    name, now = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{12}}\.tmp"), time.time()
    with os.scandir(path.parent) as entries:
        drafts = [entry for entry in entries if name.fullmatch(entry.name)]
    for entry in drafts:
        with suppress(OSError):
            if now - entry.stat(follow_symlinks=False).st_mtime > _ABANDONED:
                _remove(Path(entry.path))


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> TraceGradError:
    return TraceGradError(f"{path}: cannot be written ({error.strerror or error}); choose another place")
