import io
import os
import random
import stat
import struct
import tarfile
import zipfile

import pytest

from tracegrad.data.fetch.archive import (
    JoinedFiles,
    archive_kind,
    archive_stem,
    unpack,
    unpacked_size,
    whole_archives,
)
from tracegrad.errors import DataError

FILES = {"QH9/a.db": random.Random(1).randbytes(50_000), "QH9/notes/b.txt": b"b" * 9_000, "empty": b""}


def zipped(files=FILES, **options) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tarred(mode, files=FILES) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def cut(folder, name, content, size):
    """As `split` cuts: name.001, name.002, ..."""
    paths = []
    for number, begin in enumerate(range(0, len(content), size), start=1):
        paths.append(folder / f"{name}.{number:03d}")
        paths[-1].write_bytes(content[begin : begin + size])
    return paths


def tree(folder):
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items()}


def text(value: object) -> str:
    """Names of cases: the bytes of an archive hold the time at which it was made."""
    return value if isinstance(value, str) else ""


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.zip", zipped()),
        ("a.tar", tarred("w")),
        ("a.tar.gz", tarred("w:gz")),
        ("a.tar.bz2", tarred("w:bz2")),
        ("a.tar.xz", tarred("w:xz")),
    ],
    ids=text,
)
def test_an_archive_is_unpacked(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    seen = []
    unpack([path], tmp_path / "out", lambda done, total: seen.append((done, total)))
    assert tree(tmp_path / "out") == FILES
    size = sum(map(len, FILES.values()))
    assert seen[-1] == (size, size if name == "a.zip" else None)
    assert unpacked_size([path]) == (size if name == "a.zip" else None)


def test_a_zip_in_parts_is_read_without_joining_it(tmp_path):
    paths = cut(tmp_path, "a.zip", zipped(), 7_919)
    assert len(paths) > 5
    assert whole_archives(reversed(paths)) == [paths]
    assert archive_kind(paths) == "zip"
    unpack(paths, tmp_path / "out")
    assert tree(tmp_path / "out") == FILES


def test_joined_files_are_the_bytes_one_after_another(tmp_path):
    content = random.Random(2).randbytes(1_000)
    paths = cut(tmp_path, "x", content, 77)
    rng = random.Random(3)
    with JoinedFiles(paths) as joined:
        reader = io.BufferedReader(joined, 64)
        for _ in range(200):
            begin, count = rng.randrange(1_100), rng.randrange(300)
            reader.seek(begin)
            assert reader.tell() == begin
            assert reader.read(count) == content[begin : begin + count]
        assert reader.seek(-10, os.SEEK_END) == 990
        assert reader.read() == content[-10:]


def test_archives_are_grouped_and_a_missing_part_is_named(tmp_path):
    names = ["b.zip.002", "a.zip", "b.zip.001", "c.tar.gz"]
    paths = {name: tmp_path / name for name in names}
    assert whole_archives(paths.values()) == [
        [paths["a.zip"]],
        [paths["b.zip.001"], paths["b.zip.002"]],
        [paths["c.tar.gz"]],
    ]
    with pytest.raises(DataError, match=r"b.zip.001: this part is missing beside b.zip.002; add it"):
        whole_archives([paths["b.zip.002"]])
    with pytest.raises(DataError, match=r"z01: .* is not read; join it with zip -s 0"):
        whole_archives([tmp_path / "a.z01", tmp_path / "a.zip"])
    for part in ("a.zip.001", "a.zip.002"):
        with pytest.raises(
            DataError, match=rf"a.zip: a whole archive beside its part {part}; leave one of them out"
        ):
            whole_archives([tmp_path / "a.zip", tmp_path / part])


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a.v1.zip", "a.v1"),
        ("a.v1.tar.gz", "a.v1"),
        ("a.v1.TGZ", "a.v1"),
        ("a.v1.zip.001", "a.v1"),
        ("a.v1", "a.v1"),
        ("...zip", "...zip"),
    ],
)
def test_names_lose_only_the_suffix_of_an_archive(name, stem):
    assert archive_stem(name) == stem


def link_in_a_zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        member = zipfile.ZipInfo("link")
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(member, "/etc/passwd")
    return stream.getvalue()


def member_in_a_tar(kind) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        member = tarfile.TarInfo("special")
        member.type, member.linkname = kind, "../outside"
        archive.addfile(member)
    return stream.getvalue()


def encrypted_zip() -> bytes:
    content = bytearray(zipped({"a": b"b" * 100}))
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def zip_of_another_compression() -> bytes:
    content = bytearray(zipped({"a": b"b" * 100}))
    place = content.index(b"PK\x01\x02")
    struct.pack_into("<H", content, 8, 9)  # Deflate64
    struct.pack_into("<H", content, place + 10, 9)
    return bytes(content)


def damaged_zip() -> bytes:
    content = bytearray(zipped({"a": random.Random(4).randbytes(5_000)}))
    content[2_000] ^= 1
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (zipped({"good": b"1", "../evil": b"2"}), r"the name '../evil' leads outside"),
        (zipped({"/evil": b"2"}), "the name '/evil' leads outside"),
        (zipped({"a/../../evil": b"2"}), "leads outside"),
        (zipped({"..\\evil": b"2"}), "leads outside"),
        (zipped({"c:\\evil": b"2"}), "leads outside"),
        (tarred("w:gz", {"../evil": b"2"}), "leads outside"),
        (tarred("w", {"/evil": b"2"}), "leads outside"),
        (link_in_a_zip(), "'link' is a link or a device"),
        (member_in_a_tar(tarfile.SYMTYPE), "'special' is a link or a device"),
        (member_in_a_tar(tarfile.LNKTYPE), "'special' is a link or a device"),
        (member_in_a_tar(tarfile.CHRTYPE), "'special' is a link or a device"),
        (zipped({"a": b"1", "A/../a": b"2"}), "leads outside"),
        (tarred("w", {"a": b"1", "./a": b"2"}), "is in the archives twice"),
        (encrypted_zip(), "unpack it and give source=FOLDER"),
        (zip_of_another_compression(), "unpack it with 7-Zip"),
        (damaged_zip(), "damaged, or no whole archive"),
        (zipped()[:-2_000], "damaged, or no whole archive"),
        (zipped()[:20_000], "damaged, or no whole archive"),
        (tarred("w:gz")[:20_000], "damaged, or no whole archive"),
        (b"<html>no archive</html>", "neither a zip nor a tar archive"),
        (b"", "neither a zip nor a tar archive"),
    ],
    ids=text,
)
def test_what_is_not_unpacked(tmp_path, content, message):
    path = tmp_path / "a.zip"
    path.write_bytes(content)
    out = tmp_path / "in" / "out"
    with pytest.raises(DataError, match=message):
        unpack([path], out)
    inside = {file for file in tmp_path.rglob("*") if file.is_file()} - {path}
    assert all(out in file.parents for file in inside)


def test_what_a_mac_adds_is_left_out(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(zipped({"a": b"1", "__MACOSX/._a": b"2", "b/.DS_Store": b"3"}))
    unpack([path], tmp_path / "out")
    assert tree(tmp_path / "out") == {"a": b"1"}
