"""One published database from its archive record to a place where a training can read it."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracegrad.data.crystals.deeph import is_structure_folder
from tracegrad.data.fetch.archive import archive_kind, archive_stem, remove, unpack, whole_archives
from tracegrad.data.fetch.checksums import Checksums
from tracegrad.data.fetch.download import download, present
from tracegrad.data.fetch.downloads import Downloads
from tracegrad.data.fetch.given import given_files, is_sqlite
from tracegrad.data.fetch.layout import arrange_structures, single_file
from tracegrad.data.fetch.notes import write_notes
from tracegrad.data.fetch.progress import FetchProgress, readable
from tracegrad.data.fetch.records import Listing, RemoteFile, named_files, zenodo_files
from tracegrad.data.fetch.space import Estimate, exact_unpacked, require_space, require_unpacked
from tracegrad.data.fetch.verify import Verification, verify_crystals, verify_molecules
from tracegrad.data.fetch.wanted import Options, Wanted
from tracegrad.errors import ConfigError, DataError
from tracegrad.system.whole_files import take_place

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
    and then ``NAME.unverified``, which becomes the database only once it is verified. A refused one stays under that
    name beside its archives. Called again it goes on where it was stopped. Of archives, only those are removed that
    were downloaded here.

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
        self.draft = wanted.folder / f".{wanted.path.name}.unpacking"
        self.unverified = wanted.folder / f"{wanted.path.name}.unverified"
        self.downloads = Downloads(wanted.downloads, wanted.records)

    def run(self) -> Fetched | Estimate:
        wanted, options = self.wanted, self.options
        self.report(f"{wanted.table}: {wanted.title} ({wanted.page})")
        given = None if options.source is None else given_files(wanted, options.source)
        if isinstance(given, Path):
            self._say_terms()
            return NOTHING if options.dry_run else self._in_place(given, {"database": str(given)})
        if wanted.path.exists() and not options.overwrite:
            self._say_terms()
            self.report(f"{wanted.path} is there already (overwrite=true fetches it again)")
            return NOTHING if options.dry_run else self._in_place(wanted.path, None)
        with self.downloads.alone():
            return self._from_archives(given)

    def _in_place(self, path: Path, source: dict[str, Any] | None) -> Fetched:
        """A database that is used where it is, and never changed."""
        advice = "fetch other files (overwrite=true or source=PATH), or accept it with verify=false"
        return self._record(self._verify(path, advice), path, source)

    def _from_archives(self, given: list[Path] | None) -> Fetched | Estimate:
        """Unpacked, verified and only then put in place of what was there."""
        wanted, options = self.wanted, self.options
        self._keep_apart(given or [])
        if not options.dry_run:
            self._remove_leftovers()
        archives, source, estimate = self._remote() if given is None else self._local(given)
        if options.dry_run:
            return estimate
        self._unpack(archives)
        place = archives[0].parent
        again = "remove those to download others, " if given is None else ""
        advice = (
            f"it is left there, and its archives in {place}; {again}give source=PATH, "
            "or accept it with verify=false"
        )
        verification = self._verify(self.unverified, advice)
        self._keep_additions()
        take_place(self.unverified, wanted.path)
        fetched = self._record(verification, wanted.path, source)
        if given is None and not options.keep:
            self.downloads.remove(archives)
        return fetched

    def _keep_apart(self, archives: list[Path]) -> None:
        """Refuse archives of the user in a place that is about to be replaced."""
        for place in (self.wanted.path, self.draft, self.unverified):
            for path in archives:
                if path.resolve().is_relative_to(place.resolve()):
                    raise DataError(
                        f"{path}: lies in {place}, which would be replaced; move it elsewhere and correct source"
                    )

    def _keep_additions(self) -> None:
        """Refuse to replace a folder that holds more than what takes its place."""
        there = _names(self.wanted.path) - _names(self.unverified)
        if there:
            raise DataError(
                f"{self.wanted.path}: holds {', '.join(sorted(there)[:5])}{', ...' * (len(there) > 5)}, which the "
                f"database in {self.unverified} does not have and which would be lost; move them elsewhere"
            )

    def _remove_leftovers(self) -> None:
        """Of an unpacking that was interrupted, or a database that was refused."""
        if self.draft.exists():
            self.report("an unpacking was interrupted; doing it again")
        remove(self.draft)
        remove(self.unverified)

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
        whole_archives(paths)  # names that do not fit are refused before a long download
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
            self.downloads.note(path)
        try:
            self._compare(path, file.checksum)
        except DataError as error:
            raise DataError(f"{error}; {self.downloads.set_aside([path])}") from error

    def _compare(self, path: Path, published: str | None) -> None:
        step = self.progress.step(f"checksum of {path.name}")
        found = self.checksums.check(f"{self.wanted.name}/{path.name}", path, published, step)
        self.sums[path.name] = found
        self.report(f"{path.name}: checksum {found['compared']}")

    def _unpack(self, archives: list[Path]) -> None:
        """Into a hidden folder beside the database, which becomes ``NAME.unverified`` when all is there."""
        wanted, draft = self.wanted, self.draft
        for group in whole_archives(archives):
            try:
                require_unpacked(wanted.folder, group)
                self._unpack_one(group)
            except DataError as error:
                own = self.options.source is None
                if own and all(self.sums[path.name]["compared"] != "as published" for path in group):
                    raise DataError(f"{error}; {self.downloads.set_aside(group)}") from error
                raise
        try:
            if wanted.release is None:
                arrange_structures(draft, self.unverified)
            else:
                single_file(draft, wanted.path.name).rename(self.unverified)
        except DataError as error:
            raise DataError(f"{archives[0]}: {error}") from error
        remove(draft)

    def _unpack_one(self, group: list[Path]) -> None:
        if archive_kind(group) is None and self.wanted.release is not None and is_sqlite(group[0]):
            self.draft.mkdir(exist_ok=True)
            target = self.draft / self.wanted.path.name
            try:
                os.link(group[0], target)
            except OSError:  # no links on this disk, or between two
                shutil.copyfile(group[0], target)
            return
        self.report(f"unpacking {group[0].name}")
        folder = self.draft / archive_stem(group[0].name)
        unpack(group, folder, self.progress.step(f"unpacking {group[0].name}"))

    def _verify(self, path: Path, advice: str) -> Verification | None:
        """None where it is not asked for; the advice is for what is refused."""
        wanted = self.wanted
        if not self.options.verify:
            return None
        self.report(f"verifying {path}")
        try:
            if wanted.release is None:
                verification = verify_crystals(path, wanted.table, wanted.expect)
            else:
                verification = verify_molecules(path, wanted.table, wanted.release, wanted.expect)
        except DataError as error:
            raise DataError(f"{error}; {advice}") from error
        if verification.differences:
            raise DataError(
                f"{path}: not what {verification.against} says of {wanted.table}: "
                f"{'; '.join(verification.differences)}; {advice}"
            )
        self.report(f"verified: {verification}")
        return verification

    def _record(
        self, verification: Verification | None, path: Path, source: dict[str, Any] | None
    ) -> Fetched:
        """Note what a database is that is not refused."""
        write_notes(self.wanted, path, source, self.sums, self.licence, verification)
        for name, found in self.sums.items():
            self.checksums.remember(f"{self.wanted.name}/{name}", found)
        return Fetched(path, verification)


def _names(folder: Path) -> set[str]:
    """What a folder of structures holds: folders in groups, and files outside of structures."""
    if not folder.is_dir() or is_structure_folder(folder):
        return set()
    found: set[str] = set()
    for entry in folder.iterdir():
        inner = _names(entry)
        found |= {f"{entry.name}/{name}" for name in inner} or {entry.name}
    return found
