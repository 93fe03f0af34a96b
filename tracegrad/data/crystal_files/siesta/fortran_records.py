"""Fortran's unformatted files: records between two marks of four bytes with their length, little-endian."""

import gzip
import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from tracegrad.errors import DataError


@contextmanager
def open_records(path: Path, kind: str) -> Iterator["FortranRecords"]:
    """A file, decompressed if necessary; errors of reading in the block become `DataError`.

    Args:
        path: the file, which may be compressed with gzip.
        kind: what it should be, in messages.
    """
    try:
        with path.open("rb") as raw:
            compressed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if not compressed:
                yield FortranRecords(path, raw, kind)
            else:
                with gzip.open(raw) as content:
                    yield FortranRecords(path, content, kind)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read ({reason}); give an {kind}") from error


class FortranRecords:
    """Reads the records of a stream in turn; ``what`` names them in messages, ``kind`` the file."""

    def __init__(self, path: Path, stream: io.BufferedIOBase, kind: str):
        self.path, self.stream, self.kind = path, stream, kind

    def mark(self, what: str) -> int:
        return struct.unpack("<i", self._bytes(4, what))[0]

    def record(self, what: str, size: int | None = None) -> bytes:
        """Content of the next record, which has this size in bytes."""
        length = self.mark(what)
        if length < 0 or size not in (None, length):
            raise self.damaged(f"the {what} has {length} bytes" + (f", not {size}" if size else ""))
        content = self._bytes(length, what)
        if self.mark(what) != length:
            raise self.damaged(f"the {what} ends with another mark than it starts with")
        return content

    def ints(self, what: str, count: int) -> Int64[np.ndarray, " count"]:
        return np.frombuffer(self.record(what, 4 * count), "<i4").astype(np.int64)

    def end(self) -> None:
        """Raise `DataError` unless all records have been read."""
        if self.stream.read(1):
            raise self.damaged("something stands behind the matrices")

    def damaged(self, what: str) -> DataError:
        return DataError(f"{self.path}: {what}; the file is damaged or no {self.kind}")

    def _bytes(self, count: int, what: str) -> bytes:
        content = self.stream.read(count)
        if len(content) < count:
            raise DataError(
                f"{self.path}: ends within the {what} ({count - len(content)} of {count} bytes are missing); the "
                "file is truncated or damaged, run the calculation again"
            )
        return content
