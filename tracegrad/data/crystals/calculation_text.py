"""Text files of calculations, plain or compressed with gzip."""

import gzip
import zlib
from pathlib import Path

from tracegrad.errors import DataError


def plain_or_packed(path: Path) -> Path:
    """The file, or ``path.gz`` if only that exists."""
    packed = path.with_name(path.name + ".gz")
    return packed if packed.is_file() and not path.is_file() else path


def calculation_text(path: Path) -> str:
    """Content of a text file, decompressed if its name ends with .gz; raise `DataError` if it cannot be read."""
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")
    except (OSError, EOFError, zlib.error, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read ({reason}); take all files of the calculation") from error
