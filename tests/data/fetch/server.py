"""A web server on loopback that serves ranges, and misbehaves as it is told."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.serving import answering


@dataclass(frozen=True)
class Answer:
    """How to answer one request."""

    status: int = 200  # other than 200: an error with this status
    after: int | None = None  # close the connection after these bytes of the body
    ranges: bool = True  # False: send the whole file whatever was asked for
    kind: str = "application/octet-stream"
    etag: bool = True
    damage: int | None = None  # change a byte at this position of the body


@dataclass
class Site:
    """Files by their path, answers to the next requests for each, and what was asked for."""

    files: dict[str, bytes] = field(default_factory=dict)
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    default: Answer = Answer()
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # path, Range
    address: str = ""

    def ranges(self, path: str) -> list[str | None]:
        """The ranges that were asked for of a file."""
        return [span for asked, span in self.asked if asked == path]


@contextmanager
def serving(site: Site) -> Iterator[Site]:
    """Serve a site as long as the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _answer(self, site)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    site.address = f"http://127.0.0.1:{server.server_address[1]}"
    with answering(server):
        yield site


def _answer(handler: BaseHTTPRequestHandler, site: Site) -> None:
    path = handler.path.split("?")[0]
    site.asked.append((path, handler.headers.get("Range")))
    queue = site.answers.get(path, [])
    answer = queue.pop(0) if queue else site.default
    body = site.files.get(path)
    if answer.status != 200 or body is None:
        handler.send_response(answer.status if answer.status != 200 else 404)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return
    etag = f'"{hashlib.md5(body).hexdigest()}"'
    size, start, status = len(body), 0, 200
    span = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    if span and answer.ranges and handler.headers.get("If-Range", etag) == etag:
        start, status = int(span[1]), 206
    if status == 206 and start >= size:
        handler.send_response(416)
        handler.send_header("Content-Range", f"bytes */{size}")
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return
    if answer.damage is not None:
        body = body[: answer.damage] + bytes([body[answer.damage] ^ 1]) + body[answer.damage + 1 :]
    handler.send_response(status)
    handler.send_header("Content-Type", answer.kind)
    handler.send_header("Content-Length", str(size - start))
    if status == 206:
        handler.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
    if answer.etag:
        handler.send_header("ETag", etag)
    handler.end_headers()
    sent = body[start:]
    handler.wfile.write(sent if answer.after is None else sent[: answer.after])
    handler.wfile.flush()
    if answer.after is not None:
        handler.close_connection = True
