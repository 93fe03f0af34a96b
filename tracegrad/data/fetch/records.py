"""Which files make up a database: from the configuration, or from an archive record of Zenodo."""

import json
import shlex
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from tracegrad.data.fetch.checksums import require_checksum
from tracegrad.data.fetch.downloader import ResumingDownloader, RetryPolicy
from tracegrad.data.fetch.entry import DatabaseEntry, FetchOptions
from tracegrad.errors import ConfigError, DataError


@dataclass(frozen=True)
class RemoteFile:
    """A file to download; size in bytes and checksum (such as ``md5:0cc1...``) are None where not known."""

    name: str
    url: str
    size: int | None = None
    checksum: str | None = None


@dataclass(frozen=True)
class RecordListing:
    """The files of a database, and the licence and number of their record where one was asked."""

    files: tuple[RemoteFile, ...]
    licence: str | None = None
    record: str | None = None


def list_files(
    entry: DatabaseEntry, options: FetchOptions, report: Callable[[str], None] = print
) -> RecordListing:
    """The files of the configuration, or else those of the first record that has names like the patterns.

    With ``options.mirror`` their addresses are in that folder on the web.

    Raises:
        ConfigError: a file without name or address, or neither files nor records.
        DataError: no answer, an answer that is not understood, or no such file in any record.
    """
    if entry.files:
        files = [
            RemoteFile(
                str(file.get("name") or ""),
                str(file.get("url") or ""),
                file.get("size"),
                file.get("checksum"),
            )
            for file in entry.files
        ]
        return _listing(files, options.mirror)
    if not entry.records:
        raise ConfigError(f"{entry.name}: neither files nor records are known; give source=PATH")
    names: dict[int, list[str]] = {}
    for record in entry.records:
        files, licence = _read_record(f"{options.api.rstrip('/')}/{record}", options.retry, report)
        if chosen := [file for file in files if entry.matches(file.name)]:
            return _listing(chosen, options.mirror, licence, str(record))
        names[record] = [file.name for file in files]
    there = "; ".join(f"{record} has {', '.join(held) or 'no files'}" for record, held in names.items())
    raise DataError(
        f"no file like {list(entry.patterns)} in the records: {there}; correct patterns or records"
    )


def download_commands(files: Sequence[RemoteFile]) -> list[str]:
    """Lines with shell commands that download the files, and resume where they are given again."""
    commands = [shlex.join(["curl", "-C", "-", "-L", "-o", file.name, file.url]) for file in files]
    first = shlex.join(["aria2c", "-c", "-x", "4", "-o", files[0].name, files[0].url])
    return ["to download with other tools (then give source=FOLDER):", *commands, f"or with aria2c: {first}"]


def _listing(
    files: list[RemoteFile], mirror: str | None, licence: str | None = None, record: str | None = None
) -> RecordListing:
    """Check names, addresses and checksums of the files, after the mirror has replaced the addresses."""
    if mirror is not None:
        files = [replace(file, url=f"{mirror.rstrip('/')}/{quote(file.name)}") for file in files]
    for file in files:
        if not file.name or not file.url:
            raise ConfigError(f"files: {file} needs a name and a url (or give mirror=URL)")
        if file.name != Path(file.name).name or file.name.startswith("."):
            raise ConfigError(f"{file.name!r} is no name of a file; give one without folders (files)")
        if file.checksum is not None:
            require_checksum(file.checksum)
    return RecordListing(tuple(files), licence, record)


def _read_record(
    url: str, retry: RetryPolicy, report: Callable[[str], None]
) -> tuple[list[RemoteFile], str | None]:
    """The files of a Zenodo record by their names, and its licence."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / f"record {url.rpartition('/')[2]}"
        ResumingDownloader(answer, retry, report)(url, answer)
        text = answer.read_bytes()
    try:
        record = json.loads(text)
        files = [
            RemoteFile(str(file["key"]), str(file["links"]["self"]), int(file["size"]), str(file["checksum"]))
            for file in record["files"]
        ]
        licence = (record.get("metadata") or {}).get("license")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{url}: the answer is no listing of files ({type(error).__name__}: {error}); give their names, "
            "addresses and checksums (files), or source=PATH"
        ) from error
    licence = licence.get("id") if isinstance(licence, dict) else licence
    files.sort(key=lambda file: file.name)
    return files, None if licence is None else str(licence)
