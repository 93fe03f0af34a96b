"""A downloader for pooch that resumes interrupted downloads with HTTP range requests."""

import errno
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import urllib3

from tracegrad import __version__
from tracegrad.errors import DataError
from tracegrad.system.progress import readable_size
from tracegrad.system.text_files import write_json
from tracegrad.system.whole_files import sync

CHUNK = 1 << 20
LONGEST_PAUSE = 60.0  # seconds
TRANSIENT = {408, 425, 429}  # and every 5xx: Zenodo answers 504 now and then
_CONNECTION_ERRORS = (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError)


OnProgress = Callable[[int, int | None], None]  # bytes done, bytes in all (None: not known)


@dataclass(frozen=True)
class RetryPolicy:
    """When to try a download again, and when to give up; times in seconds."""

    retries: int = 8  # failures in a row, without new bytes, before giving up
    pause: float = 1.0  # before the second try, doubled before each further one
    timeout: float = 60.0  # without an answer of the server


class _TransientError(Exception):
    """An answer that may be another one at the next try."""


def partial_path(path: Path) -> Path:
    """Where the bytes of a file are until it is complete."""
    return path.with_name(f"{path.name}.part")


def origin_path(path: Path) -> Path:
    """JSON file that says where a download comes from; it stays as the sign that the file was downloaded."""
    return path.with_name(f"{path.name}.part.json")


@dataclass
class ResumingDownloader:
    """Downloads one file; for ``downloader=`` of `pooch.retrieve`.

    Beside the partial file its address is recorded, with its size and validator (a strong ETag or a date): with
    ``If-Range`` (RFC 9110, section 13.1.5) a server sends a file that has changed from its beginning. Without a
    validator only another size, or the checksum, shows the change.

    Args:
        path: where pooch puts the file in the end.
        report: called with lines for the user.
        on_progress: called with the bytes that are there and those of the whole file.
    """

    path: Path
    retry: RetryPolicy
    report: Callable[[str], None] = print
    on_progress: OnProgress = lambda done, total: None

    def __post_init__(self) -> None:
        self.part, self.origin = partial_path(self.path), origin_path(self.path)

    def __call__(self, url: str, output_file: str | Path, pooch: object = None) -> None:
        """Write the file at ``url`` to ``output_file``.

        The partial file remains until `discard`, since pooch may be interrupted while it compares the checksum.

        Raises:
            DataError: no network, an answer that will not change, a web page in place of the file, or no room.
        """
        output = Path(output_file)
        try:
            self.part.parent.mkdir(parents=True, exist_ok=True)
            if self._recorded_origin().get("url") != url:
                self.discard()
            there = self._partial_size()
            resumed = f", resuming after {readable_size(there)}" if there else ""
            self.report(f"{self.path.name}: downloading{resumed}")
            self._download(url)
            sync(self.part)
            output.unlink(missing_ok=True)
            try:
                os.link(self.part, output)
            except OSError:  # a file system without hard links
                self.part.replace(output)
        except OSError as error:
            advice = "make room" if error.errno == errno.ENOSPC else "check the folder"
            raise DataError(
                f"{self.part}: cannot be written ({error.strerror or error}); {advice} and give the same "
                "command again"
            ) from error

    def discard(self) -> None:
        """Remove the partial file."""
        self.part.unlink(missing_ok=True)

    def _download(self, url: str) -> None:
        """Request the missing bytes until all are there."""
        failures = most = 0
        with requests.Session() as session:
            while True:
                try:
                    return self._request(session, url)
                except (_TransientError, *_CONNECTION_ERRORS) as error:
                    reason, there = _reason(error), self._partial_size()
                    failures, most = (1, there) if there > most else (failures + 1, most)
                    if failures > self.retry.retries:
                        raise DataError(
                            f"{url}: {reason}; given up after {failures} failures in a row; check the network or try "
                            f"later (the same command resumes after {there:,} bytes), or give source=PATH or "
                            "mirror=URL"
                        ) from error
                except requests.RequestException as error:
                    raise DataError(f"{url}: {error}; correct the address") from error
                pause = min(self.retry.pause * 2.0 ** (failures - 1), LONGEST_PAUSE)
                self.report(f"{self.path.name}: {reason}; trying again in {pause:.0f} s")
                time.sleep(pause)

    def _request(self, session: requests.Session, url: str) -> None:
        start, origin = self._partial_size(), self._recorded_origin()
        headers = {"Accept-Encoding": "identity", "User-Agent": f"tracegrad/{__version__}"}
        if start:
            headers["Range"] = f"bytes={start}-"
            if origin.get("validator"):
                headers["If-Range"] = origin["validator"]
        with session.get(url, headers=headers, stream=True, timeout=self.retry.timeout) as response:
            content_range = response.headers.get("Content-Range", "")
            if response.status_code == 416 and content_range == f"bytes */{start}":
                return  # no byte is missing
            self._require_file(response)
            same_size = origin.get("size") is None or content_range.endswith(f"/{origin['size']}")
            resumes = content_range.startswith(f"bytes {start}-") and same_size
            if response.status_code != 200 and not resumes:
                self.discard()
                raise _TransientError("the file on the server has changed")
            self._receive(response, url, start if resumes else 0)

    def _require_file(self, response: requests.Response) -> None:
        status = response.status_code
        if status in TRANSIENT or status >= 500:
            raise _TransientError(f"the server answers {status}")
        if status not in (200, 206, 416):
            raise DataError(
                f"{response.url}: the server answers {status} {response.reason}; see the page of the record for "
                "where the file is now, and give mirror=URL or source=PATH"
            )
        if response.headers.get("Content-Type", "").startswith("text/html") and status != 416:
            raise DataError(
                f"{response.url}: the server sends a web page in place of {self.path.name} (a login, a quota, or a "
                "wrong address); download it with a browser and give source=PATH"
            )

    def _receive(self, response: requests.Response, url: str, start: int) -> None:
        if not start and self._partial_size():
            self.report(f"{self.path.name}: the server sends the whole file again")
        etag, length = response.headers.get("ETag", ""), response.headers.get("Content-Length", "")
        # A weak ETag (W/"...") does not promise equal bytes.
        validator = etag if etag.startswith('"') else response.headers.get("Last-Modified")
        total = start + int(length) if length.isdecimal() else None
        # The partial file is cut before its origin changes: bytes of one version never stand under another.
        with self.part.open("r+b" if start else "wb") as file:
            write_json(self.origin, {"url": url, "validator": validator, "size": total}, indent=None)
            done = file.seek(start)
            self.on_progress(done, total)
            for chunk in response.raw.stream(CHUNK, decode_content=False):
                file.write(chunk)
                file.flush()
                done += len(chunk)
                self.on_progress(done, total)

    def _partial_size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _recorded_origin(self) -> dict[str, Any]:
        with suppress(OSError, ValueError, RecursionError):
            if isinstance(origin := json.loads(self.origin.read_text(encoding="utf-8")), dict):
                return origin
        return {}


def _reason(error: BaseException) -> str:
    """Such as "the connection failed (Connection refused)", from the innermost cause."""
    if isinstance(error, _TransientError):
        return str(error)
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return f"the connection failed ({(isinstance(error, OSError) and error.strerror) or error})"
