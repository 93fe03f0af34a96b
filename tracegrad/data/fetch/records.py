"""Which files make up a database: from the configuration, or from the listing of an archive record."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tracegrad.data.fetch.checksums import parsed
from tracegrad.data.fetch.download import Patience, download
from tracegrad.errors import ConfigError, DataError


@dataclass(frozen=True)
class RemoteFile:
    """A file to download.

    Args:
        size: bytes; None: not known.
        checksum: such as ``md5:0cc1...``; None: not known.
    """

    name: str
    url: str
    size: int | None = None
    checksum: str | None = None

    def __post_init__(self) -> None:
        if not self.name or self.name != Path(self.name).name or self.name.startswith("."):
            raise ConfigError(f"{self.name!r} is no name of a file; give one without folders (files)")
        if self.checksum is not None:
            parsed(self.checksum)


@dataclass(frozen=True)
class Listing:
    """The files of a database, and the licence that their record states."""

    files: tuple[RemoteFile, ...]
    licence: str | None = None
    record: str | None = None


def named_files(entries: Sequence[Mapping[str, Any]], mirror: str | None) -> Listing:
    """Files that the configuration names, from their own addresses or from a mirror."""
    files = []
    for entry in entries:
        name, own, size, checksum = (entry.get(key) for key in ("name", "url", "size", "checksum"))
        url = mirrored(mirror, str(name)) if mirror else own
        if not name or not url:
            raise ConfigError(f"files: {dict(entry)} needs a name and a url (or give mirror=URL)")
        files.append(RemoteFile(str(name), str(url), size, checksum))
    return Listing(tuple(files))


def mirrored(mirror: str, name: str) -> str:
    """The address of a file in a folder on the web."""
    return f"{mirror.rstrip('/')}/{quote(name)}"


def zenodo_files(
    records: Sequence[int],
    patterns: Sequence[str],
    folder: str | Path,
    *,
    api: str,
    mirror: str | None = None,
    patience: Patience | None = None,
    report: Callable[[str], None] = print,
) -> Listing:
    """Files of the first of some Zenodo records that has names like ``patterns`` (upper and lower case are equal).

    Args:
        folder: where the answers of the server are kept as ``record-NUMBER.json``.
        api: address of the records, such as ``https://zenodo.org/api/records``.
        mirror: take the files from this folder on the web; names, sizes and checksums are those of the record.

    Raises:
        DataError: no answer, an answer that is not understood, or no such file.
    """
    seen: dict[int, list[str]] = {}
    for record in records:
        url, answer = f"{api.rstrip('/')}/{record}", Path(folder) / f"record-{record}.json"
        download(url, answer, patience=patience, report=report)
        try:
            listing = json.loads(answer.read_text(encoding="utf-8"))
            entries = [
                (str(file["key"]), str(file["links"]["self"]), int(file["size"]), str(file["checksum"]))
                for file in listing["files"]
            ]
            licence = (listing.get("metadata") or {}).get("license")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(
                f"{url}: the answer is no listing of files ({type(error).__name__}: {error}); give their names, "
                "addresses and checksums (files), or source=PATH"
            ) from error
        chosen = tuple(
            RemoteFile(name, mirrored(mirror, name) if mirror else address, size, checksum)
            for name, address, size, checksum in sorted(entries)
            if any(fnmatchcase(name.lower(), pattern.lower()) for pattern in patterns)
        )
        if chosen:
            stated = licence.get("id") if isinstance(licence, dict) else licence
            return Listing(chosen, None if stated is None else str(stated), str(record))
        seen[record] = [name for name, *_ in entries]
    held = "; ".join(f"{record} has {', '.join(names) or 'no files'}" for record, names in seen.items())
    raise DataError(f"no file like {list(patterns)} in the records: {held}; correct patterns or records")
