"""Compare free disk space with what the archives and the unpacked database need."""

import shutil
from collections.abc import Callable
from pathlib import Path

from tracegrad.data.fetch.progress import readable_size
from tracegrad.errors import DataError

# Assumed unpacked size in units of the archives, where it is not known: floating-point numbers compress little.
UNPACKED_RATIO = 2.0


def require_space(
    folder: Path, download: float, there: float, unpacked: float | None, report: Callable[[str], None]
) -> None:
    """Report what a database needs and what is free, and raise `DataError` where that is too little.

    Archives and database are on the disk together until the database is verified.

    Args:
        folder: of the database; it need not exist.
        download: bytes of all archives.
        there: bytes of them that are on the disk already.
        unpacked: bytes of the database; None: estimated.
    """
    free = shutil.disk_usage(
        next(place for place in (folder, *folder.absolute().parents) if place.exists())
    ).free
    guess = " (a guess)" if unpacked is None else ""
    unpacked = UNPACKED_RATIO * download if unpacked is None else unpacked
    missing = max(download - there, 0.0)
    needed = missing + unpacked
    have = f" ({readable_size(there)} of them are there)" if there else ""
    report(
        f"disk: {readable_size(download)} of archives{have}, {readable_size(unpacked)} unpacked{guess}, together "
        f"{readable_size(needed)} more; {readable_size(free)} are free in {folder}"
    )
    if needed > free:
        raise DataError(
            f"{folder}: {readable_size(needed)} are needed ({readable_size(missing)} to download, "
            f"{readable_size(unpacked)} unpacked{guess}), but {readable_size(free)} are free; make room, or choose "
            "another target"
        )
