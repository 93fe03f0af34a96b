"""What to fetch and how: plain data from the configuration."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tracegrad.data.fetch.downloader import RetryPolicy
from tracegrad.data.fetch.verify import Expectation


@dataclass(frozen=True)
class DatabaseEntry:
    """A published database, as ``conf/fetch/NAME.yaml`` describes it."""

    name: str  # on the command line
    title: str
    table: str  # column of Table 4 or 5 of the paper
    path: Path  # where it goes: a .db file (molecules) or a folder of structures (crystals)
    page: str  # web page of the archive record
    citation: str
    release: str | None = None  # key of qh9.RELEASES; None: crystals
    records: tuple[int, ...] = ()  # Zenodo records to search where ``files`` is empty
    patterns: tuple[str, ...] = ()  # of the names of its archives; upper and lower case are equal
    files: tuple[Mapping[str, Any], ...] = ()  # its archives: name, url, size in bytes, checksum
    licence: str | None = None  # None: as the record states it
    download_size: float | None = None  # approximate, bytes; None: as the record states it
    unpacked_size: float | None = None  # approximate, bytes; None: not known
    expect: Expectation | None = None  # compare with this and not with the table

    @property
    def folder(self) -> Path:
        """The folder of the database and of the files about it."""
        return self.path.parent

    def published_checksum(self, name: str) -> str | None:
        """Checksum of an archive, if the configuration has it."""
        return next((file.get("checksum") for file in self.files if file.get("name") == name), None)

    def matches(self, name: str) -> bool:
        """Whether an archive of this name may belong to the database."""
        return any(file.get("name") == name for file in self.files) or any(
            fnmatchcase(name.lower(), pattern.lower()) for pattern in self.patterns
        )


@dataclass(frozen=True)
class FetchOptions:
    """How to fetch; ``conf/fetch.yaml`` explains each option."""

    source: Path | None = None
    mirror: str | None = None
    api: str = "https://zenodo.org/api/records"
    verify: bool = True
    keep: bool = False
    overwrite: bool = False
    dry_run: bool = False
    retry: RetryPolicy = field(default_factory=RetryPolicy)
