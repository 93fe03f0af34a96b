"""One file over HTTP: it goes on where it stopped, and starts anew where the server has another file."""

import errno
import json
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

import requests
import urllib3

from tracegrad import __version__
from tracegrad.errors import DataError
from tracegrad.system.whole_files import replacing, sync

CHUNK = 1 << 20
TRANSIENT = {408, 425, 429}  # and every 5xx: Zenodo answers 504 now and then
_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+)")


@dataclass(frozen=True)
class Patience:
    """How long to try.

    Args:
        retries: failures in a row, without new bytes, before giving up.
        pause: before the second try, seconds; doubled each time.
        longest_pause: seconds; also of what a server asks for (Retry-After).
        timeout: without a sign from the server, seconds.
    """

    retries: int = 8
    pause: float = 1.0
    longest_pause: float = 60.0
    timeout: float = 60.0


@dataclass
class _State:
    """What is known of the file that an unfinished part belongs to; kept beside the part."""

    url: str
    validator: str | None = None  # a strong ETag or a date, for If-Range
    size: int | None = None


class _Passing(Exception):
    """A failure that may pass."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


def download(
    url: str,
    path: str | Path,
    *,
    size: int | None = None,
    patience: Patience | None = None,
    report: Callable[[str], None] = print,
    on_progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> None:
    """Write what stands at ``url`` to ``path``.

    An unfinished download is ``<path>.part`` with ``<path>.part.json`` beside it, and goes on with a range request.
    ``If-Range`` makes a server send a changed file from its beginning; where a server names neither an ETag nor a
    date, only the total length is compared, and a checksum has to tell the rest.

    Args:
        size: bytes of the file, if published.
        on_progress: called with the bytes that are there and those of the whole file (None: not known).

    Raises:
        DataError: no network, an answer that will not change, another size, a web page in place of the file, or no
            place on the disk.
    """
    _Transfer(url, Path(path), size, patience or Patience(), report, on_progress).run()


def present(path: str | Path) -> int:
    """Bytes of a file that are there, finished or not."""
    path = Path(path)
    for candidate in (path, _part(path)):
        with suppress(OSError):
            return candidate.stat().st_size
    return 0


def discard(path: str | Path) -> None:
    """Forget an unfinished download."""
    for leftover in (_part(Path(path)), _state_path(Path(path))):
        leftover.unlink(missing_ok=True)


class _Transfer:
    def __init__(
        self,
        url: str,
        path: Path,
        size: int | None,
        patience: Patience,
        report: Callable[[str], None],
        on_progress: Callable[[int, int | None], None],
    ):
        self.url, self.path, self.size, self.patience = url, path, size, patience
        self.report, self.on_progress = report, on_progress
        self.part = _part(path)
        self.state = _State(url)
        self.session = requests.Session()

    def run(self) -> None:
        try:
            self.part.parent.mkdir(parents=True, exist_ok=True)
            self.state = self._stored_state()
            with self.session:
                self._persist()
            sync(self.part)
            self.part.replace(self.path)
            _state_path(self.path).unlink(missing_ok=True)
        except OSError as error:
            advice = "make room" if error.errno == errno.ENOSPC else "check the folder"
            raise DataError(
                f"{self.part}: cannot be written ({error.strerror or error}); {advice} and give the same "
                "command again"
            ) from error

    def _persist(self) -> None:
        failures = furthest = 0
        while True:
            try:
                return self._try()
            except _Passing as problem:
                here = present(self.path)
                failures, furthest = (1, here) if here > furthest else (failures + 1, furthest)
                if failures > self.patience.retries:
                    tries = "1 try" if failures == 1 else f"{failures} tries"
                    raise DataError(
                        f"{self.url}: {problem}; given up after {tries}; check the network or try later (the same "
                        f"command goes on after {here:,} bytes), or give source=PATH or mirror=URL"
                    ) from problem
                wait = max(self.patience.pause * 2.0 ** (failures - 1), problem.wait)
                wait = min(wait, self.patience.longest_pause)
                self.report(f"{self.path.name}: {problem}; trying again in {wait:.0f} s")
                time.sleep(wait)

    def _try(self) -> None:
        start = self.part.stat().st_size if self.part.exists() else 0
        headers = {"Accept-Encoding": "identity", "User-Agent": f"tracegrad/{__version__}"}
        if start:
            headers["Range"] = f"bytes={start}-"
            if self.state.validator:
                headers["If-Range"] = self.state.validator
        try:
            response = self.session.get(self.url, headers=headers, stream=True, timeout=self.patience.timeout)
        except (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
        ) as error:
            raise _Passing(f"no answer ({_reason(error)})") from error
        except requests.RequestException as error:
            raise DataError(f"{self.url}: {error}; correct the address") from error
        with response:
            place = self._place(response, start)
            if place is not None:
                self._receive(response, *place)

    def _place(self, response: requests.Response, start: int) -> tuple[int, int | None] | None:
        """Where the body belongs and the size of the whole file; None where all of it is there."""
        status = response.status_code
        if status in TRANSIENT or status >= 500:
            wait = response.headers.get("Retry-After", "")
            raise _Passing(f"the server answers {status}", float(wait) if wait.isdecimal() else 0.0)
        span = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if status == 416 and start:
            if span and int(span[2]) == start:
                self._check_size(start)
                return None
            self._anew("the file on the server is a shorter one")
        if status not in (200, 206):
            raise DataError(
                f"{self.url}: the server answers {status} {response.reason}; see the page of the record for where "
                "the file is now, and give mirror=URL or source=PATH"
            )
        self._check_kind(response)
        validator = _validator(response)
        if status == 206:
            if not span or span[1] is None or int(span[1]) != start:
                self._anew("the server sends another range than was asked for")
            total: int | None = int(span[2])
            other = self.state.validator and validator and validator != self.state.validator
            if other or (self.state.size is not None and total != self.state.size):
                self._anew("the file on the server has changed")
        else:
            if start:
                same = validator is not None and validator == self.state.validator
                self.report(
                    f"{self.path.name}: starting anew: "
                    + ("the server sends whole files only" if same else "the file on the server has changed")
                )
                start = 0
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isdecimal() else None
        if total is not None:
            self._check_size(total)
        self.state = _State(self.url, validator, total)
        return start, total

    def _receive(self, response: requests.Response, start: int, total: int | None) -> None:
        # The part is cut before the state changes: bytes of one file never stand under the state of another.
        with self.part.open("r+b" if start else "wb") as file:
            with replacing(_state_path(self.path)) as draft:
                draft.write_text(json.dumps(asdict(self.state)) + "\n")
            done = file.seek(start)
            self.on_progress(done, total)
            stream = response.raw.stream(CHUNK, decode_content=False)
            while True:
                try:
                    chunk = next(stream, b"")
                except (urllib3.exceptions.HTTPError, OSError) as error:
                    raise _Passing(f"the connection broke ({_reason(error)})") from error
                if not chunk:
                    break
                file.write(chunk)
                file.flush()
                done += len(chunk)
                self.on_progress(done, total)
        if total is None:
            self._check_size(done)
        elif done != total:
            raise _Passing(f"the connection ended after {done:,} of {total:,} bytes")

    def _anew(self, reason: str) -> NoReturn:
        discard(self.path)
        self.state = _State(self.url)
        raise _Passing(f"starting anew: {reason}")

    def _check_size(self, found: int) -> None:
        if self.size is not None and found != self.size:
            discard(self.path)
            raise DataError(
                f"{self.url}: {found:,} bytes, but the record says {self.size:,}; it is another file: check "
                "the page of the record, or give mirror=URL or source=PATH"
            )

    def _check_kind(self, response: requests.Response) -> None:
        kind = response.headers.get("Content-Type", "").split(";")[0]
        if kind == "text/html" and self.path.suffix not in (".html", ".htm"):
            raise DataError(
                f"{self.url}: the server sends a web page in place of {self.path.name} (a login, a quota, or a "
                "wrong address); download it with a browser and give source=PATH"
            )
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise DataError(
                f"{self.url}: the server sends {encoding} in place of the file; give another mirror=URL"
            )

    def _stored_state(self) -> _State:
        """Of an unfinished part; one without a readable state, or from another address, is of no use."""
        with suppress(OSError, ValueError, TypeError):
            state = _State(**json.loads(_state_path(self.path).read_text(encoding="utf-8")))
            if state.url == self.url and self.part.exists():
                return state
        discard(self.path)
        return _State(self.url)


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _state_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.part.json")


def _validator(response: requests.Response) -> str | None:
    """What If-Range accepts; a weak ETag does not promise equal bytes."""
    etag = response.headers.get("ETag", "")
    return (etag if etag.startswith('"') else None) or response.headers.get("Last-Modified")


def _reason(error: BaseException) -> str:
    """The innermost cause in short, such as "Connection refused"."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return (isinstance(error, OSError) and error.strerror) or str(error)
