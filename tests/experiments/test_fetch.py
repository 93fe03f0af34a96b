"""The whole command against a server on loopback, with tiny databases as content."""

import contextlib
import copy
import io
import json
import signal
import subprocess
import sys
import zipfile
from collections import namedtuple
from hashlib import md5
from pathlib import Path

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from experiments.fetch import NAMES, fetch_databases, main
from experiments.settings.cli import clean_errors
from experiments.settings.configuration import composed, plain
from tests.data.databases import random_sample, write_stable
from tests.data.fetch.server import Answer, Site, serving
from tracegrad.data.crystals.database import CrystalDatabase
from tracegrad.data.crystals.deeph import write_structure
from tracegrad.data.qh9.database import QH9Database

ROOT = Path(__file__).parents[2]
EXPECT = "databases.qs.expect={samples: 3, elements: [H, O], atoms: [2, 3]}"


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> bytes:
    """A file like QH9Stable.db with three molecules."""
    samples = [random_sample(numbers, i) for i, numbers in enumerate([[8, 1, 1], [8, 1], [1, 1, 8]])]
    return write_stable(tmp_path_factory.mktemp("tiny") / "QH9Stable.db", samples).read_bytes()


@pytest.fixture
def site(monkeypatch, database):
    """QH9Stable.zip in four parts, as the record has it, at the address of a mirror."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    content = zipped({"QH9Stable.db": database})
    size = -(-len(content) // 4)
    parts = {f"/QH9Stable.zip.00{i + 1}": content[i * size : (i + 1) * size] for i in range(4)}
    with serving(Site(files=parts)) as served:
        yield served


@pytest.fixture
def checksums(site) -> str:
    """The parts with the checksums that the record would publish."""
    files = [
        {"name": path[1:], "checksum": f"md5:{md5(content).hexdigest()}"}
        for path, content in site.files.items()
    ]
    text = ",".join(f"{{name: {file['name']}, checksum: '{file['checksum']}'}}" for file in files)
    return f"databases.qs.files=[{text}]"


@pytest.fixture
def run(monkeypatch, capsys):
    """The command in this process: what it prints, errors last."""

    def call(*arguments: object) -> str:
        monkeypatch.setattr("sys.argv", ["fetch", *map(str, arguments)])
        with contextlib.suppress(SystemExit):
            main()
        captured = capsys.readouterr()
        return captured.out + captured.err

    return call


@pytest.fixture(scope="module")
def settings() -> DictConfig:
    """Of the command for qs."""
    return composed("fetch", ["fetch=qs"])


@pytest.fixture
def fetch(settings, site, checksums, tmp_path, capsys):
    """Fetch qs from the site as the command does, without the time that Hydra takes."""

    def call(*arguments: str) -> str:
        config = copy.deepcopy(settings)
        for argument in (
            f"mirror={site.address}",
            f"target={tmp_path / 'data'}",
            "pause=0.001",
            checksums,
            *arguments,
        ):
            key, _, value = argument.partition("=")
            OmegaConf.update(config, key, yaml.safe_load(value), merge=False)
        with contextlib.suppress(SystemExit):
            clean_errors(fetch_databases)(plain(config))
        captured = capsys.readouterr()
        return captured.out + captured.err

    return call


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


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


DISK = namedtuple("DISK", "total used free")


@pytest.fixture(autouse=True)
def _large_disk(monkeypatch):
    """The sizes of the real archives are required; a test of the disk says how large it is."""
    monkeypatch.setattr("shutil.disk_usage", lambda path: DISK(10**12, 0, 10**12))


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


@pytest.mark.parametrize("place", ["file", "folder", "archives", "archive"])
def test_local_files_in_place_of_a_download(fetch, site, database, tmp_path, place):
    local = tmp_path / "local"
    local.mkdir()
    if place in ("file", "folder"):
        (local / "QH9Stable.db").write_bytes(database)
    elif place == "archives":
        for name, content in site.files.items():
            (local / name[1:]).write_bytes(content)
        (local / "other.zip").write_bytes(b"of something else")
    else:
        (local / "whole.zip").write_bytes(b"".join(site.files.values()))
    source = {"file": local / "QH9Stable.db", "archive": local / "whole.zip"}.get(place, local)
    before = names(local)
    files = "databases.qs.files=[{name: QH9Stable.zip.001}]"  # no checksums
    printed = fetch(f"source={source}", EXPECT, files)
    used = local / "QH9Stable.db" if place in ("file", "folder") else tmp_path / "data" / "QH9Stable.db"
    assert printed.splitlines()[-1].endswith(f"data.path={used}")
    assert (names(local), site.asked) == (before, [])
    notes = json.loads((tmp_path / "data" / "QH9Stable.fetched.json").read_text())
    assert notes["source"] == (
        {"database": str(used)}
        if place in ("file", "folder")
        else {"archives": [str(local / n) for n in before if n != "other.zip"]}
    )


def test_local_archives_are_checked_and_stay(fetch, site, tmp_path):
    local = tmp_path / "local"
    local.mkdir()
    for name, content in site.files.items():
        (local / name[1:]).write_bytes(content)
    (local / "QH9Stable.zip.002").write_bytes(b"damaged")
    error = fetch(f"source={local}", EXPECT).splitlines()[-1]
    assert error.startswith(f"error: {local}/QH9Stable.zip.002: md5 is ")
    assert error.endswith("as published; get it again")
    assert "QH9Stable.zip.002" in names(local)


@pytest.fixture(scope="module")
def layers(tmp_path_factory) -> dict[str, bytes]:
    """Files of two structures of the embedded demo, one of them twisted, by their names in an archive."""
    embedded = CrystalDatabase(ROOT / "tracegrad" / "data" / "embedded" / "demo_crystals.h5")
    folder = tmp_path_factory.mktemp("layers")
    for index, name in ((0, "bilayer/0_0"), (len(embedded) - 1, "twisted/7-8")):
        write_structure(embedded[index], folder / name)
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {f"dataset/processed/{path.relative_to(folder)}": path.read_bytes() for path in paths}


def test_crystals_of_a_record(run, site, layers, tmp_path):
    """Two archives, whose names, sizes and checksums come from the listing of the record."""
    half = {
        "Bilayer_graphene_dataset.zip": zipped({k: v for k, v in layers.items() if "bilayer/" in k}),
        "Twisted_bilayer_graphene.zip": zipped({k: v for k, v in layers.items() if "twisted/" in k}),
        "README.md": b"text",
    }
    files = []
    for name, content in half.items():
        site.files[f"/{name}/content"] = content
        links = {"self": f"{site.address}/{name}/content"}
        checksum = f"md5:{md5(content).hexdigest()}"
        files.append({"key": name, "size": len(content), "checksum": checksum, "links": links})
    listing = {"files": files, "metadata": {"license": {"id": "cc-by-4.0"}}}
    site.files["/api/7553640"] = json.dumps(listing).encode()
    expect = "databases.bg.expect={samples: 2, elements: [C], atoms: [8, 28]}"
    options = [f"api={site.address}/api", f"target={tmp_path / 'data'}", "pause=0.001"]
    printed = run("data=bg", *options, expect)
    assert "licence: cc-by-4.0" in printed
    assert printed.splitlines()[-1].endswith(f"data=bg data.path={tmp_path / 'data' / 'BG'}")
    assert CrystalDatabase(tmp_path / "data" / "BG").atom_counts.tolist() == [8, 28]
    assert sorted(asked for asked, _ in site.asked) == [
        "/Bilayer_graphene_dataset.zip/content",
        "/Twisted_bilayer_graphene.zip/content",
        "/api/7553640",
    ]
    assert names(tmp_path / "data") == ["BG", "BG.fetched.json"]
    assert "expected [72, 72]" in run(
        "data=bg", *options, "databases.bg.expect={samples: 2, elements: [C], atoms: [72, 72]}"
    )
    printed = run("data=bg", *options, f"source={tmp_path / 'data' / 'BG'}")
    assert "BG: 0 structures of 64 atoms; Table 4 has 300 (180 + 60 + 60)" in printed
    # Fetching again replaces the folder, but not what a user has put into it.
    added = tmp_path / "data" / "BG" / "notes" / "mine.txt"
    added.parent.mkdir()
    added.write_text("of the user")
    error = run("data=bg", *options, expect, "overwrite=true").splitlines()[-1]
    assert "BG: holds notes/mine.txt, which the database in" in error
    assert added.read_text() == "of the user"
    assert CrystalDatabase(tmp_path / "data" / "BG").atom_counts.tolist() == [8, 28]
    added.unlink()
    added.parent.rmdir()
    assert "verified" in run("data=bg", *options, expect, "overwrite=true")
    assert names(tmp_path / "data") == ["BG", "BG.fetched.json"]


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


def test_all_databases(run, site, tmp_path):
    """One that fails does not stop the others."""
    options = ["data=all", f"target={tmp_path / 'data'}", f"mirror={site.address}", f"api={site.address}/api"]
    printed = run(*options, "pause=0.001", "retries=0", EXPECT, "databases.qs.files=[{name: whole.zip}]")
    assert printed.splitlines()[-1].startswith("error: qs, qd, mg, mm, bg, bb, bt, bs failed, see above")
    assert "QD failed: " in printed
    assert "source is of one database" in run("data=[qs,qd]", *options[1:], "source=x")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data=qt"], "no published database 'qt'; nearest: qs, qd, bt"),
        (["data=demo"], "no published database 'demo'"),
        (["target=x"], "data is needed; give data=NAME, one of all, bb, bg, bs, bt, mg, mm, qd, qs"),
        (["data=qs", "mirrors=x"], "there is no setting 'mirrors'; nearest: mirror"),
        (["data=qs", "mirror=/data"], "mirror=/data is no address; give http(s)://..., or source=PATH"),
        (["data=qs", "source=nowhere"], "nowhere: there is no such file or folder; correct source"),
        (["data=qs", "retries=-1"], "retries, timeout and pause must be positive"),
        (["data=qs", "databases.qs.files=[a.zip]"], "databases.qs.files: 'a.zip' is not understood"),
        (["data=qs", "databases.qs.files=[{name: a.zip}]"], "needs a name and a url (or give mirror=URL)"),
        (["data=qs", "databases.qs.files=[{name: a, url: b, checksum: 'md5:1'}]"], "checksum 'md5:1' is not"),
        (["data=qs", "databases.qs.expect=3"], "expect=3 is not understood"),
        (["data=qs", "keep=maybe"], "keep is 'maybe', but it must be true or false"),
    ],
)
def test_bad_settings_are_one_line(run, tmp_path, arguments, message):
    target = [] if "target=x" in arguments else [f"target={tmp_path}"]
    printed = run(*arguments, *target)
    assert message in printed
    assert printed.splitlines()[-1].startswith("error: ")


def test_an_empty_source(run, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "neither archives (zip, tar) nor a file QH9Stable.db in it" in run(
        "data=qs", f"source={tmp_path / 'empty'}"
    )
    assert "nor folders of structures in it" in run("data=bg", f"source={tmp_path / 'empty'}")


def test_every_database_goes_where_its_training_reads_it():
    databases = composed("fetch", ["fetch=all"]).databases
    assert sorted(databases) == sorted({*NAMES} - {"all"})
    for name, entry in databases.items():
        training = OmegaConf.load(ROOT / "conf" / "data" / f"{name}.yaml")
        for key, other in (("path", "path"), ("table", "table"), ("release", "database")):
            expected = OmegaConf.to_container(training).get(other)
            assert OmegaConf.to_container(entry).get(key) == expected, (name, key)
        assert entry.licence is not None or entry.records


def test_help(run):
    printed = run()
    assert "tracegrad fetch data=qs dry_run=true" in printed
    assert "databases: {}" in printed
