"""Fetch one published database, from its archive record to a place where a training can read it."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pooch

from tracegrad.data.crystal_files.deeph import is_structure_folder
from tracegrad.data.fetch.archive import archive_stem, unpack, whole_archives
from tracegrad.data.fetch.checksums import Checksums
from tracegrad.data.fetch.downloader import ResumingDownloader
from tracegrad.data.fetch.entry import DatabaseEntry, FetchOptions
from tracegrad.data.fetch.folder import DownloadFolder
from tracegrad.data.fetch.layout import arrange_structures, single_file
from tracegrad.data.fetch.local import is_sqlite, local_files
from tracegrad.data.fetch.notes import write_notes
from tracegrad.data.fetch.records import RemoteFile, download_commands, list_files
from tracegrad.data.fetch.space import require_space
from tracegrad.data.fetch.verify import Verification, verify_crystals, verify_molecules
from tracegrad.errors import DataError
from tracegrad.system.progress import ProgressDisplay
from tracegrad.system.whole_files import take_place


@dataclass(frozen=True)
class FetchedDatabase:
    """Where a database is; ``verification`` is None if it was switched off."""

    path: Path
    verification: Verification | None


def fetch(entry: DatabaseEntry, options: FetchOptions, progress: ProgressDisplay) -> FetchedDatabase | None:
    """Fetch and verify a database. A dry run only reports what that would need, and returns None.

    Everything is in ``entry.folder``: archives below ``downloads``, files that are being unpacked in a hidden folder,
    then ``NAME.unverified``, which takes the place of the database once it is verified. A database that is refused
    keeps that name, and its archives stay. A second call resumes an interrupted one. Only archives that were
    downloaded are removed.

    Raises:
        DataError: anything about the archives, the network or the disk.
    """
    return _Fetcher(entry, options, progress).run()


class _Fetcher:
    def __init__(self, entry: DatabaseEntry, options: FetchOptions, progress: ProgressDisplay):
        self.entry, self.options, self.progress = entry, options, progress
        self.report = progress.report
        self.downloads = DownloadFolder(entry.folder / "downloads" / entry.name)
        self.checksums = Checksums(entry.folder / "checksums.json")
        self.digests: dict[str, dict[str, str]] = {}  # of each archive, from Checksums.compare
        self.licence = entry.licence
        self.unpacking = entry.folder / f".{entry.path.name}.unpacking"
        self.unverified = entry.folder / f"{entry.path.name}.unverified"

    def run(self) -> FetchedDatabase | None:
        entry, options = self.entry, self.options
        self.report(f"{entry.table}: {entry.title} ({entry.page})")
        local = None if options.source is None else local_files(entry, options.source)
        if isinstance(local, Path):
            return self._use_in_place(local, {"database": str(local)})
        if entry.path.exists() and not options.overwrite:
            self.report(f"{entry.path} is there already (overwrite=true fetches it again)")
            return self._use_in_place(entry.path, None)
        with self.downloads.locked():
            if not options.dry_run:
                self._remove_leftovers()
            return self._from_record() if local is None else self._from_local_archives(local)

    def _use_in_place(self, path: Path, source: dict[str, Any] | None) -> FetchedDatabase | None:
        """Verify a database where it is, and change nothing."""
        self._report_terms()
        if self.options.dry_run:
            return None
        advice = "fetch other files (overwrite=true or source=PATH), or accept it with verify=false"
        return self._record(self._verify(path, advice), path, source)

    def _from_record(self) -> FetchedDatabase | None:
        entry, options = self.entry, self.options
        listing = list_files(entry, options, self.report)
        self.licence = self.licence or listing.licence
        self._report_terms()
        paths = [self.downloads.path / file.name for file in listing.files]
        whole_archives(paths)  # refuses names that do not fit together before a long download
        sizes = [file.size for file in listing.files if file.size is not None]
        size = float(sum(sizes)) if len(sizes) == len(paths) else entry.download_size
        require_space(entry.folder, paths, size, entry.unpacked_size, self.report)
        for line in download_commands(listing.files):
            self.report(line)
        if options.dry_run:
            return None
        for file, path in zip(listing.files, paths, strict=True):
            self._download(file, path)
        source = {"record": listing.record, "urls": [file.url for file in listing.files]}
        fetched = self._from_archives(paths, source, "remove those to download again, ")
        if not options.keep:
            self.downloads.remove(paths)
        return fetched

    def _from_local_archives(self, paths: list[Path]) -> FetchedDatabase | None:
        entry = self.entry
        self._report_terms()
        size = float(sum(path.stat().st_size for path in paths))
        require_space(entry.folder, paths, size, entry.unpacked_size, self.report)
        if self.options.dry_run:
            return None
        for path in paths:
            self._compare_checksum(path, entry.published_checksum(path.name))
        return self._from_archives(paths, {"archives": [str(path) for path in paths]})

    def _report_terms(self) -> None:
        self.report(f"licence: {self.licence or f'not known here; it stands on {self.entry.page}'}")
        self.report(f"cite: {self.entry.citation}")

    def _download(self, file: RemoteFile, path: Path) -> None:
        """Download an archive that is missing, or has another checksum than the published one."""
        downloader = ResumingDownloader(path, self.options.retry, self.report, self.progress.bar(file.name))
        if path.exists() and downloader.part.exists():  # the user has added the archive meanwhile
            downloader.origin.unlink(missing_ok=True)
        pooch.get_logger().setLevel("WARNING")
        try:
            pooch.retrieve(
                file.url,
                file.checksum,
                file.name,
                path.parent,
                downloader=downloader,  # type: ignore[arg-type]  # pooch's type names the arguments wrongly
            )
        except ValueError as error:  # the checksum differs
            downloader.discard()
            raise DataError(f"{path}: {error} Give the same command to download it again.") from error
        downloader.discard()
        if file.checksum is None:
            self._compare_checksum(path, None)
        else:
            algorithm, _, digest = file.checksum.lower().partition(":")
            self._note_digests(path, {algorithm: digest, "compared": "as published"})

    def _compare_checksum(self, path: Path, published: str | None) -> None:
        self._note_digests(path, self.checksums.compare(f"{self.entry.name}/{path.name}", path, published))

    def _note_digests(self, path: Path, digests: dict[str, str]) -> None:
        self.digests[path.name] = digests
        self.report(f"{path.name}: checksum {digests['compared']}")

    def _from_archives(
        self, archives: list[Path], source: dict[str, Any], advice: str = ""
    ) -> FetchedDatabase:
        """Unpack archives and verify the result before it takes the place of the database."""
        self._unpack(archives)
        advice = (
            f"it is left there, and its archives in {archives[0].parent}; {advice}give source=PATH, or accept it "
            "with verify=false"
        )
        verification = self._verify(self.unverified, advice)
        self._require_no_additions()
        take_place(self.unverified, self.entry.path)
        return self._record(verification, self.entry.path, source)

    def _remove_leftovers(self) -> None:
        """Of an unpacking that was interrupted, or of a database that was refused."""
        if self.unpacking.exists():
            self.report("an unpacking was interrupted; doing it again")
        for path in (self.unpacking, self.unverified):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _unpack(self, archives: list[Path]) -> None:
        """Unpack into a hidden folder, and move what is needed of it to ``NAME.unverified``."""
        entry = self.entry
        try:
            for parts in whole_archives(archives):
                self._unpack_archive(parts)
            if entry.release is None:
                arrange_structures(self.unpacking, self.unverified)
            else:
                single_file(self.unpacking, entry.path.name).rename(self.unverified)
        except DataError as error:
            again = (
                "" if self.options.source else f"; to download it again, remove it from {self.downloads.path}"
            )
            raise DataError(f"{archives[0]}: {error}{again}") from error
        shutil.rmtree(self.unpacking, ignore_errors=True)

    def _unpack_archive(self, parts: list[Path]) -> None:
        path, entry = parts[0], self.entry
        if entry.release is not None and is_sqlite(path):
            self.unpacking.mkdir(exist_ok=True)
            try:
                os.link(path, self.unpacking / entry.path.name)
            except OSError:  # no hard links on this disk, or between two disks
                shutil.copyfile(path, self.unpacking / entry.path.name)
        else:
            self.report(f"unpacking {path.name}")
            folder = self.unpacking / archive_stem(path.name)
            unpack(parts, folder, self.progress.bar(f"unpacking {path.name}"))

    def _verify(self, path: Path, advice: str) -> Verification | None:
        """Count a database and compare it with its table; an error ends with ``advice``."""
        entry = self.entry
        if not self.options.verify:
            return None
        self.report(f"verifying {path}")
        try:
            if entry.release is None:
                verification = verify_crystals(path, entry.table, entry.expect)
            else:
                verification = verify_molecules(path, entry.table, entry.release, entry.expect)
        except DataError as error:
            raise DataError(f"{error}; {advice}") from error
        if verification.differences:
            raise DataError(
                f"{path}: not what {verification.against} says of {entry.table}: "
                f"{'; '.join(verification.differences)}; {advice}"
            )
        self.report(f"verified: {verification}")
        return verification

    def _require_no_additions(self) -> None:
        """Refuse to replace a folder that holds files which the new one lacks."""
        added = sorted(_names(self.entry.path) - _names(self.unverified))
        if added:
            raise DataError(
                f"{self.entry.path}: holds {', '.join(added[:5])}{', ...' * (len(added) > 5)}, which the database in "
                f"{self.unverified} does not have and which would be lost; move them elsewhere"
            )

    def _record(
        self, verification: Verification | None, path: Path, source: dict[str, Any] | None
    ) -> FetchedDatabase:
        """Write the notes on a database that is accepted."""
        write_notes(self.entry, path, source, self.digests, self.licence, verification)
        for name, digests in self.digests.items():
            self.checksums.record_first_use(f"{self.entry.name}/{name}", digests)
        return FetchedDatabase(path, verification)


def _names(folder: Path) -> set[str]:
    """Structures and other files in a folder of structures; files inside of a structure are not listed."""
    if not folder.is_dir() or is_structure_folder(folder):
        return set()
    names: set[str] = set()
    for path in folder.iterdir():
        inner = _names(path)
        names |= {f"{path.name}/{name}" for name in inner} or {path.name}
    return names
