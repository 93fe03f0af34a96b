"""The folder where the archives of one database lie until it is verified."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tracegrad.data.fetch.download import discard
from tracegrad.errors import DataError
from tracegrad.system.locks import take_lock
from tracegrad.system.whole_files import replacing


class Downloads:
    """Knows which files in the folder were downloaded here, by this call or one before it; others are the user's.

    Args:
        folder: made by `alone`.
        records: numbers of the records whose answers may be kept in it.
    """

    def __init__(self, folder: Path, records: Iterable[int] = ()):
        self.folder = folder
        self._lock, self._list = folder / ".lock", folder / ".downloaded"
        self._answers = [folder / f"record-{number}.json" for number in records]

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the folder; the lock goes with the process. Afterwards a folder without files of use is removed.

        Raises:
            DataError: another process holds it, or something in the block cannot be written.
        """
        try:
            lock = take_lock(self._lock)
            if lock is None:
                raise DataError(f"{self.folder}: another process is fetching this database; wait for it")
            try:
                yield
            finally:
                self._leave_no_trace()
                os.close(lock)
        except OSError as error:
            raise DataError(
                f"{error.filename or self.folder}: cannot be written ({error.strerror or error}); choose another "
                "target, or make room"
            ) from error

    def note(self, path: Path) -> None:
        """That a file was downloaded here."""
        self._write(self._names() | {path.name})

    def set_aside(self, paths: Sequence[Path]) -> str:
        """Rename downloads that are of no use, so that they are not taken for good ones; says so."""
        names, bad = {path.name for path in paths}, [_bad(path) for path in paths]
        own = self._names()
        if not names <= own:
            others = ", ".join(sorted(names - own))
            return f"{others} was not downloaded by this command and is left there; move it elsewhere"
        for path, target in zip(paths, bad, strict=True):
            path.replace(target)
        self._write(own - names | {path.name for path in bad})
        return f"kept as {', '.join(path.name for path in bad)}; the same command downloads again"

    def remove(self, paths: Iterable[Path]) -> None:
        """Those that were downloaded here, and what came of failed attempts at them."""
        own = self._names()
        for path in paths:
            for name in {path.name, _bad(path).name} & own:
                (self.folder / name).unlink(missing_ok=True)
            discard(self.folder / path.name)
        self._list.unlink(missing_ok=True)

    def _names(self) -> set[str]:
        return set(self._list.read_text(encoding="utf-8").splitlines()) if self._list.exists() else set()

    def _write(self, names: set[str]) -> None:
        with replacing(self._list) as draft:
            draft.write_text("".join(f"{name}\n" for name in sorted(names)), encoding="utf-8")

    def _leave_no_trace(self) -> None:
        with suppress(OSError):
            if {*self.folder.iterdir()} <= {self._lock, self._list, *self._answers}:
                for path in (self._list, *self._answers):
                    path.unlink(missing_ok=True)
                self._lock.unlink()  # last: another process may begin from here on
                self.folder.rmdir()
                self.folder.parent.rmdir()  # unless other databases have theirs in it


def _bad(path: Path) -> Path:
    return path.with_name(f"{path.name}.bad")
