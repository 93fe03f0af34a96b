"""Unpack archives inside one folder: zip and tar, whole or cut into parts .001, .002, ..."""

import bisect
import io
import lzma
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from pathlib import Path

from tracegrad.errors import DataError

_PART = re.compile(r"(.+)\.(\d{3})")
_SUFFIX = re.compile(r"(\.(zip|tgz|tbz2?|txz|tar(\.(gz|bz2|xz))?))?(\.\d{3})?$", re.IGNORECASE)
_SPANNED = re.compile(r".+\.z\d\d", re.IGNORECASE)
_MAGIC = {b"PK\x03\x04": "zip", b"PK\x05\x06": "zip", b"\x1f\x8b": "tar", b"BZh": "tar", b"\xfd7zXZ": "tar"}
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError)


class JoinedFiles(io.RawIOBase):
    """The bytes of several files one after another as one file to read, without a copy."""

    def __init__(self, paths: Sequence[Path], on_progress: Callable[[int, int | None], None]):
        self._files = [path.open("rb") for path in paths]
        self._ends = list(accumulate(os.fstat(file.fileno()).st_size for file in self._files))
        self._position = 0
        self._on_progress = on_progress

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._ends[-1]}[whence]
        if base + offset < 0:
            raise OSError("a position before the first byte")
        self._position = base + offset
        return self._position

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        index = bisect.bisect_right(self._ends, self._position)
        if index == len(self._files):
            return 0
        file, end = self._files[index], self._ends[index]
        file.seek(self._position - (self._ends[index - 1] if index else 0))
        count = file.readinto(memoryview(buffer)[: end - self._position])
        self._position += count
        self._on_progress(self._position, self._ends[-1])
        return count

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()


def whole_archives(paths: Iterable[Path]) -> list[list[Path]]:
    """Group files to archives: ``a.zip.001``, ``a.zip.002``, ... are one, every other file is an archive by itself.

    Raises:
        DataError: a part is missing, or the archive is cut in a way that is not read (.z01).
    """
    groups: dict[Path, list[Path]] = {}
    for path in sorted(paths):
        if _SPANNED.fullmatch(path.name):
            raise DataError(
                f"{path}: a zip archive cut into .z01, .z02, ... is not read; join it with "
                "zip -s 0 ARCHIVE.zip --out whole.zip and give source=whole.zip"
            )
        part = _PART.fullmatch(path.name)
        groups.setdefault(path.with_name(part[1]) if part else path, []).append(path)
    for whole, parts in groups.items():
        if whole in parts and len(parts) > 1:
            raise DataError(
                f"{whole}: beside it is {parts[1].name}, a part of it; leave one out (source={whole})"
            )
        for number, path in enumerate(parts if whole not in parts else [], start=1):
            if path.name != (expected := f"{whole.name}.{number:03d}"):
                raise DataError(
                    f"{path.with_name(expected)}: this part is missing beside {path.name}; add it"
                )
    return list(groups.values())


def archive_stem(name: str) -> str:
    """The name without the suffixes of an archive: "a.v1" of ``a.v1.zip``, ``a.v1.tar.gz`` and ``a.v1.zip.001``."""
    stem = _SUFFIX.sub("", name, count=1)
    return stem if stem.strip(".") else name


def archive_kind(path: Path) -> str | None:
    """ "zip" or "tar" by the first bytes of a file, compressed or not; None: neither."""
    with path.open("rb") as file:
        start = file.read(262)
    if start[257:262] == b"ustar":
        return "tar"
    return next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None)


def unpack(
    parts: Sequence[Path],
    folder: Path,
    on_progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> None:
    """Write the files of an archive to a folder, and compare them with the checksums in the archive.

    Nothing is written outside of the folder: zipfile drops ``..`` and drives from names, and the filter "data" of
    tarfile (PEP 706) refuses files, links and devices that lead outside.

    Args:
        parts: the parts of the archive in their order.
        on_progress: called with the position in the archive and its size in bytes.

    Raises:
        DataError: no archive, a damaged or encrypted one, a path that leads outside, or no room on the disk.
    """
    path = parts[0]
    try:
        kind = archive_kind(path)
        if kind is None:
            raise DataError(f"{path}: neither a zip nor a tar archive; give the files of the record")
        with JoinedFiles(parts, on_progress) as raw, io.BufferedReader(raw, 1 << 20) as file:  # type: ignore[type-var]
            if kind == "zip":
                with zipfile.ZipFile(file) as zip_archive:
                    zip_archive.extractall(folder)
            elif hasattr(tarfile, "data_filter"):
                with tarfile.open(fileobj=file, mode="r|*") as tar_archive:
                    tar_archive.extractall(folder, filter="data")
            else:
                raise DataError(f"{path}: needs Python 3.11.4 or newer; or unpack it and give source=FOLDER")
    except tarfile.FilterError as error:
        raise DataError(f"{path}: {error}; this archive is not unpacked") from error
    except RuntimeError as error:  # encrypted, or a compression that Python does not have
        raise DataError(f"{path}: {error}; unpack it with 7-Zip and give source=FOLDER") from error
    except _DAMAGED as error:
        if isinstance(error, OSError) and error.strerror:
            raise DataError(f"{path}: cannot be unpacked ({error.strerror}: {error.filename})") from error
        raise DataError(f"{path}: damaged, or no whole archive ({error}); get it again") from error
