"""The whole command against a server on loopback, with tiny databases as content."""

import json
import signal
import subprocess
import sys

from tests.data.databases import random_sample, write_stable
from tests.data.fetch.server import Answer
from tests.experiments.fetch.archives import EXPECT, ROOT, names, zipped
from tests.experiments.fetch.conftest import DISK
from tracegrad.data.qh9.database import QH9Database


def test_parts_are_downloaded_checked_unpacked_and_verified(run, fetch, site, checksums, database, tmp_path):
    data = tmp_path / "data"
    printed = run("data=qs", f"mirror={site.address}", f"target={data}", checksums, EXPECT)
    path = data / "QH9Stable.db"
    assert printed.splitlines()[:3] == [
        "QS: QH9-stable (https://zenodo.org/records/8274793)",
        "licence: CC-BY-NC-SA-4.0",
        "cite: Yu et al., QH9, arXiv:2306.09549 (NeurIPS Datasets and Benchmarks 2023)",
    ]
    assert "disk: 26.9 GB of archives, 30.5 GB unpacked, together 57.4 GB more" in printed
    assert "verified: 3 samples of 2 to 3 atoms (H, O), as in expect" in printed
    last = f"use it: tracegrad train experiment=... data=qs data.path={path}"
    assert printed.splitlines()[-1] == last
    assert path.read_bytes() == database
    assert len(QH9Database(path)) == 3
    assert names(data) == ["QH9Stable.db", "QH9Stable.fetched.json"]
    notes = json.loads((data / "QH9Stable.fetched.json").read_text())
    assert notes["licence"] == "CC-BY-NC-SA-4.0"
    assert notes["source"]["urls"] == [f"{site.address}/QH9Stable.zip.00{i}" for i in range(1, 5)]
    assert [set(file) for file in notes["files"].values()] == 4 * [{"md5", "compared"}]
    assert [file["compared"] for file in notes["files"].values()] == 4 * ["as published"]
    assert notes["verification"]["differences"] == []
    before = len(site.asked)
    assert "is there already" in fetch(EXPECT)
    assert len(site.asked) == before
    again = json.loads((data / "QH9Stable.fetched.json").read_text())
    for key in ("source", "files", "date"):
        assert again[key] == notes[key]


def test_a_disk_that_is_too_small(fetch, monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.disk_usage", lambda path: DISK(10**12, 0, 4 * 10**10))
    assert fetch(EXPECT).splitlines()[-1] == (
        f"error: {tmp_path / 'data'}: 57.4 GB are needed (26.9 GB to download, 30.5 GB unpacked), but 40.0 GB are "
        "free; make room, or choose another target"
    )


def test_a_dry_run_leaves_nothing(fetch, run, site, tmp_path):
    printed = fetch("dry_run=true")
    assert "1,000.0 GB are free in" in printed
    assert f"curl -C - -L -o QH9Stable.zip.003 {site.address}/QH9Stable.zip.003" in printed.splitlines()
    assert (site.asked, names(tmp_path / "data")) == ([], [])
    assert "error" not in run("data=[qs,qd]", "dry_run=true", f"target={tmp_path / 'data'}")


def test_the_tables_refuse_a_tiny_file_unless_it_is_accepted(fetch, site, database, tmp_path):
    data = tmp_path / "data"
    assert fetch().splitlines()[-1] == (
        f"error: {data}/QH9Stable.db.unverified: not what Table 5 says of QS: QS: 3 rows (no release, stable); it "
        f"should be stable, of 130,831 rows; it is left there, and its archives in {data}/downloads/qs; remove those "
        "to download again, give source=PATH, or accept it with verify=false"
    )
    assert names(data) == ["QH9Stable.db.unverified", "downloads"]
    archives = [f"QH9Stable.zip.00{i}" for i in range(1, 5)]
    assert [name for name in names(data / "downloads" / "qs") if name[-3:].isdecimal()] == archives
    asked = len(site.asked)
    assert "use it: " in fetch("verify=false")
    assert len(site.asked) == asked
    assert (data / "QH9Stable.db").read_bytes() == database
    assert names(data) == ["QH9Stable.db", "QH9Stable.fetched.json"]


def test_a_refused_database_does_not_replace_a_good_one(fetch, site, tmp_path):
    data = tmp_path / "data"
    fetch(EXPECT)
    before = {path.name: path.read_bytes() for path in data.iterdir()}
    local = tmp_path / "local"
    local.mkdir()
    other = write_stable(tmp_path / "other.db", [random_sample([8, 1], 7)]).read_bytes()
    (local / "QH9Stable.zip").write_bytes(zipped({"QH9Stable.db": other}))
    error = fetch(f"source={local}", "overwrite=true", EXPECT).splitlines()[-1]
    assert "samples: 1, expected 3" in error
    assert f"its archives in {local}; give source=PATH, or accept it" in error
    (data / "QH9Stable.db.unverified").unlink()
    assert {path.name: path.read_bytes() for path in data.iterdir()} == before
    assert names(local) == ["QH9Stable.zip"]
    # The database that is there is verified by other numbers.
    assert "not what Table 5 says of QS" in fetch().splitlines()[-1]
    assert {path.name: path.read_bytes() for path in data.iterdir()} == before


def test_only_what_was_downloaded_is_removed(fetch, site, tmp_path):
    """The user has put one of four parts there, after a download of it was interrupted."""
    folder = tmp_path / "data" / "downloads" / "qs"
    folder.mkdir(parents=True)
    (folder / "QH9Stable.zip.003").write_bytes(site.files["/QH9Stable.zip.003"])
    (folder / "QH9Stable.zip.003.part").write_bytes(b"half")
    (folder / "QH9Stable.zip.003.part.json").write_text("{}")
    site.answers["/QH9Stable.zip.002"] = [Answer(status=403)]
    assert "403" in fetch(EXPECT).splitlines()[-1]
    assert "QH9Stable.zip.001" in names(folder)
    assert "use it: " in fetch(EXPECT)
    assert [name for name in names(folder) if name[0] != "."] == ["QH9Stable.zip.003"]
    assert site.ranges("/QH9Stable.zip.003") == []


def test_damaged_bytes_are_downloaded_again(fetch, site, database, tmp_path):
    site.answers["/QH9Stable.zip.003"] = [Answer(damage=40)]
    error = fetch(EXPECT).splitlines()[-1]
    assert "MD5 hash of downloaded file (QH9Stable.zip.003) does not match" in error
    assert error.endswith("Give the same command to download it again.")
    assert "use it: " in fetch(EXPECT)
    assert (tmp_path / "data" / "QH9Stable.db").read_bytes() == database
    assert site.ranges("/QH9Stable.zip.003") == [None, None]


def test_an_interruption_while_checksums_are_compared_keeps_the_download(fetch, site, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pooch.core.hash_matches", interrupted)
        assert "use it: " not in fetch(EXPECT)
    assert "QH9Stable.zip.001: downloading, resuming after" in fetch(EXPECT)
    size = len(site.files["/QH9Stable.zip.001"])
    assert site.ranges("/QH9Stable.zip.001") == [None, f"bytes={size}-"]
    assert names(tmp_path / "data") == ["QH9Stable.db", "QH9Stable.fetched.json"]


def test_unpublished_checksums_are_recorded(fetch, site, tmp_path):
    files = "databases.qs.files=[{name: whole.zip}]"
    site.files["/whole.zip"] = b"".join(site.files.values())
    assert "whole.zip: checksum not published, first use" in fetch(EXPECT, files)
    assert list(json.loads((tmp_path / "data" / "checksums.json").read_text())) == ["qs/whole.zip"]
    assert "whole.zip: checksum as at the first use (20" in fetch(EXPECT, files, "overwrite=true")
    site.files["/whole.zip"] = zipped({"QH9Stable.db": b"x"})
    error = fetch(EXPECT, files, "overwrite=true").splitlines()[-1]
    assert "if the record has a new version, remove qs/whole.zip from" in error
    assert len(QH9Database(tmp_path / "data" / "QH9Stable.db")) == 3


def test_no_archive_or_one_of_another_database(fetch, site, tmp_path):
    files = "databases.qs.files=[{name: whole.zip}]"
    site.files["/whole.zip"] = b"something else"
    error = fetch(EXPECT, files).splitlines()[-1]
    assert "neither a zip nor a tar archive" in error
    folder = tmp_path / "data" / "downloads" / "qs"
    assert error.endswith(f"; to download it again, remove it from {folder}")
    (folder / "whole.zip").unlink()
    site.files["/whole.zip"] = zipped({"QH9Dynamic_300k.db": b"x"})
    error = fetch(EXPECT, files).splitlines()[-1]
    assert "the archive holds whole/QH9Dynamic_300k.db and not QH9Stable.db; it is of another" in error
    assert not (tmp_path / "data" / "QH9Stable.db").exists()


# Downloads one part as the command does, and kills itself after 100 bytes.
DOWNLOAD = """
import os, signal, sys
from pathlib import Path
from tracegrad.data.fetch import downloader

downloader.CHUNK = 50
def kill(done, total):
    if done == 100:
        os.kill(os.getpid(), signal.SIGKILL)
path = Path(sys.argv[1], "downloads", "qs", "QH9Stable.zip.003")
download = downloader.ResumingDownloader(path, downloader.RetryPolicy(), lambda line: None, kill)
download(f"{sys.argv[2]}/{path.name}", path)
"""


def test_a_killed_download_is_resumed(fetch, site, database, tmp_path):
    data = tmp_path / "data"
    process = subprocess.run([sys.executable, "-c", DOWNLOAD, str(data), site.address], cwd=ROOT)
    assert process.returncode == -signal.SIGKILL
    assert "QH9Stable.zip.003: downloading, resuming after 100 bytes" in fetch(EXPECT)
    assert (data / "QH9Stable.db").read_bytes() == database
    assert site.ranges("/QH9Stable.zip.003") == [None, "bytes=100-"]


def test_an_interrupted_unpacking_is_done_again(fetch, site, database, tmp_path):
    data = tmp_path / "data"
    fetch()  # is refused
    (data / ".QH9Stable.db.unpacking" / "QH9Stable").mkdir(parents=True)
    (data / ".QH9Stable.db.unpacking" / "QH9Stable" / "QH9Stable.db").write_bytes(b"half")
    assert "an unpacking was interrupted; doing it again" in fetch(EXPECT)
    assert len(site.asked) == 4
    assert (data / "QH9Stable.db").read_bytes() == database
    assert names(data) == ["QH9Stable.db", "QH9Stable.fetched.json"]
