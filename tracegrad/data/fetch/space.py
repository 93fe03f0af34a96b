"""Compare free disk space with what the archives and the unpacked database need."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from tracegrad.data.fetch.downloader import partial_path
from tracegrad.errors import DataError
from tracegrad.system.progress import readable_size

# Assumed unpacked size in units of the archives, where it is not known: floating-point numbers compress little.
UNPACKED_RATIO = 2.0


def require_space(
    folder: Path,
    archives: Sequence[Path],
    download: float | None,
    unpacked: float | None,
    report: Callable[[str], None],
) -> None:
    """Report what a database needs and what is free, and raise `DataError` where that is too little.

    Archives and database are on the disk together until the database is verified.

    Args:
        folder: of the database; it need not exist.
        archives: where they are, complete or partial, or will be.
        download: bytes of all archives; None: not known.
        unpacked: bytes of the database; None: estimated.
    """
    if download is None:
        report("disk: the size of the download is not known before it begins")
        return
    files = [file for path in archives for file in (path, partial_path(path)) if file.exists()]
    there = float(sum(file.stat().st_size for file in files))
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
