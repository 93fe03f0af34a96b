import io
import os
import random
import tarfile
import zipfile

import pytest

from tracegrad.data.fetch.archive import JoinedFiles, archive_stem, unpack, whole_archives
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


def split(folder, name, content, size):
    """Write the parts name.001, name.002, ..."""
    paths = []
    for number, begin in enumerate(range(0, len(content), size), start=1):
        paths.append(folder / f"{name}.{number:03d}")
        paths[-1].write_bytes(content[begin : begin + size])
    return paths


def tree(folder):
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


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
    calls = []
    unpack([path], tmp_path / "out", lambda done, total: calls.append((done, total)))
    assert tree(tmp_path / "out") == FILES
    assert calls[-1] == (len(content), len(content))


def test_a_zip_in_parts_is_read_without_joining_it(tmp_path):
    paths = split(tmp_path, "a.zip", zipped(), 7_919)
    assert len(paths) > 5
    assert whole_archives(reversed(paths)) == [paths]
    unpack(paths, tmp_path / "out")
    assert tree(tmp_path / "out") == FILES


def test_joined_files_are_the_bytes_one_after_another(tmp_path):
    content = random.Random(2).randbytes(1_000)
    paths = split(tmp_path, "x", content, 77)
    rng = random.Random(3)
    with JoinedFiles(paths, lambda done, total: None) as joined:
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
    with pytest.raises(DataError, match=r"b.zip.002: this part is missing beside b.zip.003; add it"):
        whole_archives([paths["b.zip.001"], tmp_path / "b.zip.003"])
    with pytest.raises(DataError, match=r"z01: .* is not read; join it with zip -s 0"):
        whole_archives([tmp_path / "a.z01", tmp_path / "a.zip"])
    for part in ("a.zip.001", "a.zip.002"):
        with pytest.raises(
            DataError, match=rf"a.zip: beside it is {part}, a part of it; leave one out \(source="
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


def damaged_zip() -> bytes:
    content = bytearray(zipped({"a": random.Random(4).randbytes(5_000)}))
    content[2_000] ^= 1
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tarred("w:gz", {"../evil": b"2"}), "outside the destination; this archive is not unpacked"),
        (member_in_a_tar(tarfile.SYMTYPE), "outside the destination; this archive is not unpacked"),
        (member_in_a_tar(tarfile.LNKTYPE), "outside the destination; this archive is not unpacked"),
        (member_in_a_tar(tarfile.CHRTYPE), "is a special file; this archive is not unpacked"),
        (encrypted_zip(), "unpack it with 7-Zip and give source=FOLDER"),
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


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil"])
def test_names_of_a_zip_lose_what_leads_outside(tmp_path, name):
    path = tmp_path / "a.zip"
    path.write_bytes(zipped({name: b"2"}))
    unpack([path], tmp_path / "in" / "out")
    assert set(tree(tmp_path)) == {"a.zip", f"in/out/{'a/' * name.startswith('a')}evil"}
