"""What to fetch and how: plain data from the configuration."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tracegrad.data.fetch.download import Patience
from tracegrad.data.fetch.verify import Expectation


@dataclass(frozen=True)
class Wanted:
    """A published database.

    Args:
        name: short name, as on the command line.
        title: for people.
        table: column of Table 4 or 5.
        path: where it goes: a .db file, or a folder of structures.
        page: of the record, for people.
        citation: of the paper that published it.
        release: key of ``qh9.RELEASES``; None for crystals.
        records: numbers of Zenodo records to look for files in; not asked where ``files`` are known.
        patterns: of the names of the files in them.
        files: tables with name, url, size and checksum.
        licence: None: as the record states it.
        download_size: bytes, about; None: the record says.
        unpacked_size: bytes, about; None: not known.
        expect: numbers to verify with in place of the table's.
    """

    name: str
    title: str
    table: str
    path: Path
    page: str
    citation: str
    release: str | None = None
    records: tuple[int, ...] = ()
    patterns: tuple[str, ...] = ()
    files: tuple[Mapping[str, Any], ...] = ()
    licence: str | None = None
    download_size: float | None = None
    unpacked_size: float | None = None
    expect: Expectation | None = None

    @property
    def folder(self) -> Path:
        """Where the database and the notes on it go."""
        return self.path.parent

    @property
    def downloads(self) -> Path:
        """Where archives lie until the database is verified."""
        return self.folder / "downloads" / self.name

    @property
    def notes(self) -> Path:
        """What was fetched, and how it was verified."""
        return self.folder / f"{self.path.stem}.fetched.json"

    def published_checksum(self, name: str) -> str | None:
        """Of a file, if the configuration knows it."""
        return next((file.get("checksum") for file in self.files if file.get("name") == name), None)

    def owns(self, name: str) -> bool:
        """Whether a file of this name belongs to the database, as far as is known."""
        return any(file.get("name") == name for file in self.files) or any(
            fnmatchcase(name.lower(), pattern.lower()) for pattern in self.patterns
        )


@dataclass(frozen=True)
class Options:
    """How to fetch.

    Args:
        source: archives, a folder of them, or the database itself, in place of a download.
        mirror: a folder on the web to take the files from.
        api: address of Zenodo's records.
        verify: compare with the tables.
        keep: leave the archives where they are afterwards.
        overwrite: fetch what is there already.
        dry_run: only say what it would take.
    """

    source: Path | None = None
    mirror: str | None = None
    api: str = "https://zenodo.org/api/records"
    verify: bool = True
    keep: bool = False
    overwrite: bool = False
    dry_run: bool = False
    patience: Patience = field(default_factory=Patience)
