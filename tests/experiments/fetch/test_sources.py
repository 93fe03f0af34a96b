"""Where databases come from: local files, records, mirrors, and settings that name none."""

import json
from hashlib import md5

import pytest
from omegaconf import OmegaConf

from experiments.fetch import NAMES
from experiments.settings.configuration import composed
from tests.experiments.fetch.archives import EXPECT, ROOT, names, zipped
from tracegrad.data.crystal_files.database import CrystalDatabase
from tracegrad.data.crystal_files.deeph import write_structure


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
