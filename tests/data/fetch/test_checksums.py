import hashlib
import json

import pytest

from tracegrad.data.fetch.checksums import Checksums, require_checksum
from tracegrad.errors import ConfigError, DataError

DIGESTS = {name: hashlib.new(name, b"content").hexdigest() for name in ("md5", "sha256")}


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(b"content")
    return path


@pytest.mark.parametrize("algorithm", ["md5", "sha256", "MD5"])
def test_published_checksums(tmp_path, archive, algorithm):
    checksums = Checksums(tmp_path / "checksums.json")
    digest = DIGESTS[algorithm.lower()]
    digests = checksums.compare("qs/a.zip", archive, f"{algorithm}:{digest}")
    assert digests == {algorithm.lower(): digest, "compared": "as published"}
    checksums.record_first_use("qs/a.zip", digests)
    assert not checksums.path.exists()
    archive.write_bytes(b"Content")
    with pytest.raises(
        DataError, match=f"{algorithm.lower()} is [0-9a-f]+, but should be {digest} as published"
    ):
        checksums.compare("qs/a.zip", archive, f"{algorithm}:{digest}")


def test_other_checksums_are_recorded_and_compared_later(tmp_path, archive):
    checksums = Checksums(tmp_path / "checksums.json")
    digests = checksums.compare("qs/a.zip", archive, None)
    assert digests == {"sha256": DIGESTS["sha256"], "compared": "not published, first use"}
    assert not checksums.path.exists()  # only once the archive is verified
    checksums.record_first_use("qs/a.zip", digests)
    checksums.record_first_use("bg/b.zip", digests)
    assert json.loads(checksums.path.read_text())["qs/a.zip"]["sha256"] == DIGESTS["sha256"]
    assert checksums.compare("qs/a.zip", archive, None)["compared"].startswith("as at the first use (20")
    archive.write_bytes(b"Content")
    with pytest.raises(DataError, match=r"at the first use \(20.*remove qs/a.zip from .*checksums.json"):
        checksums.compare("qs/a.zip", archive, None)


@pytest.mark.parametrize("text", ["{", "[]", '{"qs/a.zip": 3}'])
def test_a_damaged_table_is_named(tmp_path, archive, text):
    path = tmp_path / "checksums.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"checksums.json: cannot be read .*; correct or remove it"):
        Checksums(path).compare("qs/a.zip", archive, None)


@pytest.mark.parametrize("checksum", ["md5:12", "crc32:00000000", "0cc175b9c0f1b6a831c399e269772661", ""])
def test_checksums_that_are_not_understood(checksum):
    with pytest.raises(ConfigError, match=r"give md5:\.\.\. or sha256:"):
        require_checksum(checksum)
