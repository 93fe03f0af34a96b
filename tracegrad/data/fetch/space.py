"""Room on the disk for a download and for what it unpacks to."""

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from tracegrad.data.fetch.archive import archive_kind, unpacked_size, whole_archives
from tracegrad.data.fetch.progress import readable
from tracegrad.errors import DataError

# Unpacked size in units of the archives, where nothing is known; floating-point numbers shrink little.
UNPACKED_GUESS = 2.0


@dataclass(frozen=True)
class Estimate:
    """Bytes that are needed: archives to download, and what stays after them."""

    archives: float
    unpacked: float


def free_space(folder: Path) -> int:
    """Bytes that are free where a folder is, or will be."""
    return shutil.disk_usage(
        next(place for place in (folder, *folder.absolute().parents) if place.exists())
    ).free


def require_space(
    folder: Path, download: float, there: float, unpacked: float | None, report: Callable[[str], None]
) -> Estimate:
    """Say what a database takes, and raise `DataError` where the disk is too small.

    Archives and database are on the disk together until the database is verified.

    Args:
        download: bytes of all archives.
        there: bytes of them that are downloaded.
        unpacked: bytes of the database; None: guessed.
    """
    missing, free = max(download - there, 0.0), free_space(folder)
    after = UNPACKED_GUESS * download if unpacked is None else unpacked
    have = f" ({readable(there)} of them are there)" if there else ""
    guess = " (a guess)" if unpacked is None else ""
    report(
        f"disk: {readable(download)} of archives{have}, {readable(after)} unpacked{guess}, together "
        f"{readable(missing + after)} more; {readable(free)} are free in {folder}"
    )
    if missing + after > free:
        raise DataError(
            f"{folder}: {readable(missing + after)} are needed ({readable(missing)} to download, {readable(after)} "
            f"unpacked{guess}), but {readable(free)} are free; make room, or choose another target"
        )
    return Estimate(missing, after)


def require_space_for_all(folder: Path, estimates: Sequence[Estimate]) -> None:
    """The same for several databases one after another, of which only the last one still has its archives."""
    unpacked = list(accumulate(estimate.unpacked for estimate in estimates))
    peaks = [after + estimate.archives for after, estimate in zip(unpacked, estimates, strict=True)]
    peak, free = max(peaks, default=0.0), free_space(folder)
    if peak > free:
        raise DataError(
            f"{folder}: {readable(peak)} are needed for all of them, but {readable(free)} are free; make room, or "
            "fetch fewer"
        )


def exact_unpacked(archives: Iterable[Path]) -> float | None:
    """Bytes that unpacking writes, where the archives tell; a file that is no archive is linked."""
    sizes = [unpacked_size(group) if archive_kind(group) else 0 for group in whole_archives(archives)]
    known = [size for size in sizes if size is not None]
    return float(sum(known)) if len(known) == len(sizes) else None


def require_unpacked(folder: Path, archives: Iterable[Path]) -> None:
    """Raise `DataError` where unpacking would fill the disk, as far as the archives tell."""
    exact, free = exact_unpacked(archives), free_space(folder)
    if exact is not None and exact > free:
        raise DataError(
            f"{folder}: {readable(exact)} are needed to unpack, but {readable(free)} are free; make room and give "
            "the same command again"
        )
