"""One published database from its archive record to a place where a training can read it."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracegrad.data.fetch.archive import archive_kind, remove, unpack, whole_archives
from tracegrad.data.fetch.checksums import Checksums
from tracegrad.data.fetch.download import download, present
from tracegrad.data.fetch.given import given_files, is_sqlite
from tracegrad.data.fetch.layout import arrange_structures, single_file
from tracegrad.data.fetch.notes import write_notes
from tracegrad.data.fetch.progress import FetchProgress, readable
from tracegrad.data.fetch.records import Listing, RemoteFile, named_files, zenodo_files
from tracegrad.data.fetch.space import Estimate, exact_unpacked, require_space, require_unpacked
from tracegrad.data.fetch.verify import Verification, verify_crystals, verify_molecules
from tracegrad.data.fetch.wanted import Options, Wanted
from tracegrad.errors import ConfigError, DataError

NOTHING = Estimate(0.0, 0.0)
Archives = tuple[list[Path], dict[str, Any], Estimate]  # where they are, where they come from, what they take


@dataclass(frozen=True)
class Fetched:
    """Where a database is; ``verification`` is None where none was asked for."""

    path: Path
    verification: Verification | None


def fetch(wanted: Wanted, options: Options, progress: FetchProgress) -> Fetched | Estimate:
    """Get a database, or what of it is missing, and verify it; a dry run says only what it would take.

    Everything stands in ``wanted.folder``: archives below ``downloads``, what is being unpacked in a hidden folder,
    and the database itself only when all of it is unpacked. Called again it goes on where it was stopped.

    Raises:
        DataError: anything about the archives, the network or the disk.
    """
    return _Fetch(wanted, options, progress).run()


class _Fetch:
    def __init__(self, wanted: Wanted, options: Options, progress: FetchProgress):
        self.wanted, self.options, self.progress = wanted, options, progress
        self.report = progress.report
        self.checksums = Checksums(wanted.folder / "checksums.json")
        self.sums: dict[str, dict[str, str]] = {}
        self.licence = wanted.licence

    def run(self) -> Fetched | Estimate:
        wanted, options = self.wanted, self.options
        self.report(f"{wanted.table}: {wanted.title} ({wanted.page})")
        given = None if options.source is None else given_files(wanted, options.source)
        if isinstance(given, Path):
            self._say_terms()
            return NOTHING if options.dry_run else self._finish(given, {"database": str(given)})
        if wanted.path.exists() and not options.overwrite:
            self._say_terms()
            self.report(f"{wanted.path} is there already (overwrite=true fetches it again)")
            return NOTHING if options.dry_run else self._finish(wanted.path, None)
        try:
            with _alone(wanted.downloads):
                archives, source, estimate = self._remote() if given is None else self._local(given)
                if options.dry_run:
                    return estimate
                self._unpack(archives)
        finally:
            self._leave_no_trace()
        return self._finish(wanted.path, source)

    def _say_terms(self) -> None:
        self.report(f"licence: {self.licence or f'not known here; it stands on {self.wanted.page}'}")
        self.report(f"cite: {self.wanted.citation}")

    def _local(self, archives: list[Path]) -> Archives:
        """Archives of the user, checked where they are."""
        self._say_terms()
        size = float(sum(path.stat().st_size for path in archives))
        estimate = require_space(self.wanted.folder, size, size, exact_unpacked(archives), self.report)
        for path in archives if not self.options.dry_run else ():
            self._compare(path, self.wanted.published_checksum(path.name))
        return archives, {"archives": [str(path) for path in archives]}, estimate

    def _remote(self) -> Archives:
        """Archives of the record, downloaded and checked."""
        listing = self._listing()
        self.licence = self.licence or listing.licence
        self._say_terms()
        paths = [self.wanted.downloads / file.name for file in listing.files]
        sizes = [file.size for file in listing.files if file.size is not None]
        whole = float(sum(sizes)) if len(sizes) == len(paths) else self.wanted.download_size
        estimate = NOTHING
        if whole is None:
            self.report("disk: the size of the download is not known before it begins")
        else:
            there = float(sum(map(present, paths)))
            estimate = require_space(self.wanted.folder, whole, there, self.wanted.unpacked_size, self.report)
        for file, path in zip(listing.files, paths, strict=True) if not self.options.dry_run else ():
            self._download(file, path)
        return paths, {"record": listing.record, "urls": [file.url for file in listing.files]}, estimate

    def _listing(self) -> Listing:
        wanted, options = self.wanted, self.options
        if wanted.files:
            return named_files(wanted.files, options.mirror)
        if not wanted.records:
            raise ConfigError(f"{wanted.name}: neither files nor records are known; give source=PATH")
        return zenodo_files(
            wanted.records,
            wanted.patterns,
            wanted.downloads,
            api=options.api,
            mirror=options.mirror,
            patience=options.patience,
            report=self.report,
        )

    def _leave_no_trace(self) -> None:
        """Remove the folder of downloads if there are none."""
        downloads = self.wanted.downloads
        with suppress(OSError):
            if all(path.name == ".lock" or path.name.startswith("record-") for path in downloads.iterdir()):
                remove(downloads)
                downloads.parent.rmdir()  # unless other databases have theirs in it

    def _download(self, file: RemoteFile, path: Path) -> None:
        if not path.exists():
            size, there = "" if file.size is None else f", {readable(file.size)}", present(path)
            self.report(f"{file.name}{size}: downloading{f' on after {readable(there)}' if there else ''}")
            download(
                file.url,
                path,
                size=file.size,
                patience=self.options.patience,
                report=self.report,
                on_progress=self.progress.step(file.name),
            )
        try:
            self._compare(path, file.checksum)
        except DataError as error:
            raise DataError(f"{error}; {_set_aside([path])}") from error

    def _compare(self, path: Path, published: str | None) -> None:
        step = self.progress.step(f"checksum of {path.name}")
        found = self.checksums.check(f"{self.wanted.name}/{path.name}", path, published, step)
        self.sums[path.name] = found
        self.report(f"{path.name}: checksum {found['compared']}")

    def _unpack(self, archives: list[Path]) -> None:
        """Into a hidden folder beside the database, which takes its place at the end."""
        wanted = self.wanted
        draft, ready = (wanted.folder / f".{wanted.path.name}.{stage}" for stage in ("unpacking", "unpacked"))
        if draft.exists():
            self.report("an unpacking was interrupted; doing it again")
        remove(draft)
        remove(ready)
        for group in whole_archives(archives):
            try:
                require_unpacked(wanted.folder, group)
                self._unpack_one(group, draft)
            except DataError as error:
                own = group[0].parent == wanted.downloads
                if own and all(self.sums[path.name]["compared"] != "as published" for path in group):
                    raise DataError(f"{error}; {_set_aside(group)}") from error
                raise
        try:
            if wanted.release is None:
                arrange_structures(draft, ready)
            else:
                single_file(draft, wanted.path.name).rename(ready)
        except DataError as error:
            raise DataError(f"{archives[0]}: {error}") from error
        os.sync()  # a rename must not outlive what was written before
        if wanted.path.is_dir():
            remove(wanted.path)
        ready.replace(wanted.path)
        remove(draft)

    def _unpack_one(self, group: list[Path], draft: Path) -> None:
        if archive_kind(group) is None and self.wanted.release is not None and is_sqlite(group[0]):
            draft.mkdir(exist_ok=True)
            target = draft / self.wanted.path.name
            try:
                os.link(group[0], target)
            except OSError:  # no links on this disk, or between two
                shutil.copyfile(group[0], target)
            return
        self.report(f"unpacking {group[0].name}")
        unpack(group, draft / group[0].name.split(".")[0], self.progress.step(f"unpacking {group[0].name}"))

    def _finish(self, path: Path, source: dict[str, Any] | None) -> Fetched:
        wanted, verification = self.wanted, None
        if self.options.verify:
            self.report(f"verifying {path}")
            if wanted.release is None:
                verification = verify_crystals(path, wanted.table, wanted.expect)
            else:
                verification = verify_molecules(path, wanted.table, wanted.release, wanted.expect)
        write_notes(wanted, path, source, self.sums, self.licence, verification)
        if source is not None and not self.options.keep:
            remove(wanted.downloads)
            with suppress(OSError):
                wanted.downloads.parent.rmdir()
        if verification is not None:
            if verification.differences:
                raise DataError(
                    f"{path}: not what {verification.against} says of {wanted.table}: "
                    f"{'; '.join(verification.differences)}; fetch other files (overwrite=true), or accept it with "
                    "verify=false"
                )
            self.report(f"verified: {verification}")
        for name, found in self.sums.items():
            self.checksums.remember(f"{wanted.name}/{name}", found)
        return Fetched(path, verification)


def _set_aside(paths: list[Path]) -> str:
    """Rename downloads that are of no use, so that they are not taken for good ones; says so."""
    for path in paths:
        path.replace(path.with_name(f"{path.name}.bad"))
    return f"kept as {', '.join(f'{path.name}.bad' for path in paths)}; the same command downloads again"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the downloads of a database; the lock goes with the process."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
    except BlockingIOError as error:
        raise DataError(f"{folder}: another process is fetching this database; wait for it") from error
    except OSError as error:
        raise DataError(
            f"{error.filename or folder}: cannot be written ({error.strerror or error}); choose another target, or "
            "make room"
        ) from error
