import hashlib
import json

import pytest

from tracegrad.data.fetch.checksums import Checksums, parsed
from tracegrad.errors import ConfigError, DataError

MD5 = f"md5:{hashlib.md5(b'content').hexdigest()}"
SHA256 = f"sha256:{hashlib.sha256(b'content').hexdigest()}"


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(b"content")
    return path


@pytest.mark.parametrize("published", [MD5, SHA256, MD5.upper()])
def test_published_checksums(tmp_path, archive, published):
    sums = Checksums(tmp_path / "checksums.json")
    found = sums.check("qs/a.zip", archive, published)
    assert found["compared"] == "as published"
    assert f"sha256:{found['sha256']}" == SHA256
    sums.remember("qs/a.zip", found)
    assert not sums.path.exists()
    archive.write_bytes(b"Content")
    algorithm = published.split(":")[0].lower()
    with pytest.raises(DataError, match=f"{algorithm} is [0-9a-f]+, but {published.split(':')[1].lower()}"):
        sums.check("qs/a.zip", archive, published)


def test_unknown_checksums_are_recorded_and_compared_later(tmp_path, archive):
    sums = Checksums(tmp_path / "checksums.json")
    found = sums.check("qs/a.zip", archive, None)
    assert found["compared"] == "not published, seen for the first time"
    assert not sums.path.exists()  # not before it turned out to be a good one
    sums.remember("qs/a.zip", found)
    sums.remember("bg/b.zip", found)
    assert json.loads(sums.path.read_text())["qs/a.zip"]["sha256"] == SHA256.split(":")[1]
    assert sums.check("qs/a.zip", archive, None)["compared"].startswith("as at the first use (20")
    archive.write_bytes(b"Content")
    with pytest.raises(DataError, match=r"at the first use \(20.*remove qs/a.zip from .*checksums.json"):
        sums.check("qs/a.zip", archive, None)


@pytest.mark.parametrize("text", ["{", "[]", '{"qs/a.zip": 3}'])
def test_a_damaged_table_is_named(tmp_path, archive, text):
    path = tmp_path / "checksums.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"checksums.json: cannot be read .*; correct or remove it"):
        Checksums(path).check("qs/a.zip", archive, None)


@pytest.mark.parametrize(
    "checksum", ["md5:12", "crc32:00000000", "0cc175b9c0f1b6a831c399e269772661", "md5:", ""]
)
def test_checksums_that_are_not_understood(checksum):
    with pytest.raises(ConfigError, match=r"give md5:\.\.\. or sha256:"):
        parsed(checksum)
