"""The folder where the archives of one database are until the database is verified."""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tracegrad.data.fetch.downloader import origin_path
from tracegrad.errors import DataError
from tracegrad.system.locks import take_lock

_TEMPORARY = re.compile(r"tmp[a-z0-9_]{8}")  # of pooch


class DownloadFolder:
    """A folder of archives, some of which the user may have put there."""

    def __init__(self, path: Path):
        self.path = path
        self._lock = path / ".lock"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder against other processes; afterwards it is removed if no archive is in it.

        Raises:
            DataError: another process has the lock, or something in the block cannot be written.
        """
        try:
            lock = take_lock(self._lock)
            if lock is None:
                raise DataError(f"{self.path}: another process is fetching this database; wait for it")
            try:
                for file in self.path.iterdir():
                    if _TEMPORARY.fullmatch(file.name):  # of a process that was killed
                        file.unlink()
                yield
            finally:
                self._remove_empty()
                os.close(lock)
        except OSError as error:
            raise DataError(
                f"{error.filename or self.path}: cannot be written ({error.strerror or error}); choose another "
                "target, or make room"
            ) from error

    def remove(self, archives: Iterable[Path]) -> None:
        """Remove those archives that were downloaded and not put here by the user."""
        for archive in archives:
            if origin_path(archive).exists():
                archive.unlink(missing_ok=True)
                origin_path(archive).unlink()

    def _remove_empty(self) -> None:
        with suppress(OSError):
            if [*self.path.iterdir()] == [self._lock]:
                self._lock.unlink()  # last: another process may take it from here on
                self.path.rmdir()
                self.path.parent.rmdir()  # unless other databases have theirs in it
