"""Archives: zip, whole or cut into .001, .002, ..., and tar, unpacked inside one folder only."""

import bisect
import io
import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path, PurePosixPath

from tracegrad.errors import DataError

_CHUNK = 1 << 22
_WHOLE = -1  # in place of the number of a part
_PART = re.compile(r"(.+)\.(\d{3})")
_SUFFIX = re.compile(r"(\.(zip|tgz|tbz2?|txz|tar(\.(gz|bz2|xz))?))?(\.\d{3})?$", re.IGNORECASE)
_SPANNED = re.compile(r".+\.z\d\d", re.IGNORECASE)
_HEADS = {b"PK\x03\x04": "zip", b"PK\x05\x06": "zip", b"\x1f\x8b": "tar", b"BZh": "tar", b"\xfd7zXZ": "tar"}
_UNREADABLE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError)


class JoinedFiles(io.RawIOBase):
    """The bytes of several files one after another, without a copy; read only."""

    def __init__(self, paths: Sequence[Path]):
        self._files = [path.open("rb") for path in paths]
        self._ends = list(accumulate(os.fstat(file.fileno()).st_size for file in self._files))
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._ends[-1]}[whence]
        if base + offset < 0:
            raise OSError("a place before the first byte")
        self._position = base + offset
        return self._position

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        index = bisect.bisect_right(self._ends, self._position)
        if index == len(self._files):
            return 0
        file, end = self._files[index], self._ends[index]
        begin = self._ends[index - 1] if index else 0
        file.seek(self._position - begin)
        count = file.readinto(memoryview(buffer)[: end - self._position])
        self._position += count
        return count

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()


def whole_archives(paths: Iterable[Path]) -> list[list[Path]]:
    """Files grouped to archives: ``a.zip.001``, ``a.zip.002``, ... are one, every other file is one of its own.

    Raises:
        DataError: a part is missing, an archive is there whole and in parts, or its kind of cutting is not read.
    """
    groups: dict[str, list[tuple[int, Path]]] = {}
    for path in sorted(paths):
        if _SPANNED.fullmatch(path.name):
            raise DataError(
                f"{path}: a zip archive cut into .z01, .z02, ... is not read; join it with "
                "zip -s 0 ARCHIVE.zip --out whole.zip and give source=whole.zip"
            )
        part = _PART.fullmatch(path.name)
        key = str(path.with_name(part[1])) if part else str(path)
        groups.setdefault(key, []).append((int(part[2]) if part else _WHOLE, path))
    for key, parts in groups.items():
        numbers = [number for number, _ in parts]
        if _WHOLE in numbers and len(parts) > 1:
            raise DataError(
                f"{key}: a whole archive beside its part {parts[-1][1].name}; leave one of them out "
                f"(source={key}, or files)"
            )
        missing = sorted({*range(1, max(numbers) + 1)} - {*numbers})
        if missing:
            raise DataError(f"{key}.{missing[0]:03d}: this part is missing beside {parts[0][1].name}; add it")
    return [[path for _, path in parts] for parts in groups.values()]


def archive_stem(name: str) -> str:
    """``a.v1.zip``, ``a.v1.tar.gz`` and ``a.v1.zip.001`` without what tells the kind: ``a.v1``."""
    stem = _SUFFIX.sub("", name, count=1)
    return stem if stem.strip(".") else name


def archive_kind(paths: Sequence[Path]) -> str | None:
    """ "zip" or "tar" by the first bytes; None: neither."""
    try:
        with paths[0].open("rb") as file:
            head = file.read(262)
    except OSError as error:
        raise DataError(f"{paths[0]}: cannot be read ({error.strerror}); check its permissions") from error
    if head[257:262] == b"ustar":
        return "tar"
    return next((kind for magic, kind in _HEADS.items() if head.startswith(magic)), None)


def unpacked_size(paths: Sequence[Path]) -> int | None:
    """Bytes of the files in an archive; None where only unpacking would tell (tar)."""
    if archive_kind(paths) != "zip":
        return None
    with _readable(paths), _joined(paths) as file, zipfile.ZipFile(file) as archive:
        return sum(member.file_size for member in archive.infolist())


def unpack(
    paths: Sequence[Path],
    folder: str | Path,
    on_progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> None:
    """Write the files of an archive, whose contents are compared with their CRC where the format has one.

    Args:
        paths: the archive, or its parts in order.
        folder: made if it is missing; nothing is written outside of it, and no file in it is replaced.
        on_progress: called with the bytes that are written and those of all files (None: not known).

    Raises:
        DataError: no archive, a damaged one, or one with a path that leads outside, a link, an encrypted file or a
            compression that Python does not have.
    """
    folder = Path(folder)
    kind = archive_kind(paths)
    if kind is None:
        raise DataError(f"{paths[0]}: neither a zip nor a tar archive; give the files of the record")
    with _readable(paths):
        folder.mkdir(parents=True, exist_ok=True)
        with _joined(paths) as file:
            members = _zip_members(file, paths) if kind == "zip" else _tar_members(file, paths)
            done = 0
            for name, content, total in members:
                target = folder / _inside(name, paths)
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as output:
                    while chunk := content.read(_CHUNK):
                        output.write(chunk)
                        done += len(chunk)
                        on_progress(done, total)


Member = tuple[str, io.BufferedIOBase | io.RawIOBase, int | None]


def _zip_members(file: io.BufferedReader, paths: Sequence[Path]) -> Iterator[Member]:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        total = sum(member.file_size for member in members)
        for member in members:
            if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _special(member.filename, paths)
            _inside(member.filename, paths)
        for member in members:
            if member.is_dir() or _is_litter(member.filename):
                continue
            with archive.open(member) as content:
                yield member.filename, content, total  # type: ignore[misc]


def _tar_members(file: io.BufferedReader, paths: Sequence[Path]) -> Iterator[Member]:
    with tarfile.open(fileobj=file, mode="r|*") as archive:
        for member in archive:
            if not (member.isfile() or member.isdir()):
                raise _special(member.name, paths)
            if member.isfile() and not _is_litter(member.name):
                content = archive.extractfile(member)
                assert content is not None
                yield member.name, content, None  # type: ignore[misc]


def _special(name: str, paths: Sequence[Path]) -> DataError:
    return DataError(f"{paths[0]}: {name!r} is a link or a device; this archive is not unpacked")


def _inside(name: str, paths: Sequence[Path]) -> Path:
    """A name of an archive as a relative path without ``..``."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or parts[0] == "/" or ".." in parts or ":" in parts[0] or "\0" in name:
        raise DataError(f"{paths[0]}: the name {name!r} leads outside; this archive is not unpacked")
    return Path(*parts)


def _is_litter(name: str) -> bool:
    """What a Mac adds to archives."""
    return name.startswith("__MACOSX/") or name.endswith(".DS_Store")


@contextmanager
def _joined(paths: Sequence[Path]) -> Iterator[io.BufferedReader]:
    with JoinedFiles(paths) as raw, io.BufferedReader(raw, _CHUNK) as file:
        yield file  # type: ignore[misc]


@contextmanager
def _readable(paths: Sequence[Path]) -> Iterator[None]:
    """What the libraries raise of an archive, as errors that help."""
    try:
        yield
    except FileExistsError as error:
        raise DataError(
            f"{paths[0]}: {error.filename} is in the archives twice; this archive is not unpacked"
        ) from error
    except OSError as error:
        if error.errno is None:
            raise DataError(f"{paths[0]}: damaged ({error}); get it again") from error
        raise DataError(f"{paths[0]}: cannot be unpacked ({error.strerror}: {error.filename})") from error
    except NotImplementedError as error:
        raise DataError(f"{paths[0]}: {error}; unpack it with 7-Zip and give source=FOLDER") from error
    except RuntimeError as error:
        raise DataError(f"{paths[0]}: {error}; unpack it and give source=FOLDER") from error
    except _UNREADABLE as error:
        raise DataError(f"{paths[0]}: damaged, or no whole archive ({error}); get it again") from error


def remove(path: Path) -> None:
    """A file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
