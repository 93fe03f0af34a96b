import json
from pathlib import Path

import pytest

from tests.data.fetch.server import Answer
from tracegrad.data.fetch.downloader import RetryPolicy
from tracegrad.data.fetch.entry import DatabaseEntry, FetchOptions
from tracegrad.data.fetch.records import RemoteFile, download_commands, list_files
from tracegrad.errors import ConfigError, DataError

MD5 = "md5:0cc175b9c0f1b6a831c399e269772661"


def record(*names: str, licence: object = None) -> bytes:
    """As Zenodo's API answers, cut to what is read."""
    files = [
        {"key": name, "size": 7, "checksum": MD5, "links": {"self": f"https://zenodo.org/{name}/content"}}
        for name in names
    ]
    return json.dumps({"id": 1, "files": files, "metadata": {"license": licence}}).encode()


def entry(**values) -> DatabaseEntry:
    return DatabaseEntry("bg", "graphene", "BG", Path("BG"), "page", "citation", **values)


@pytest.fixture
def listing(site):
    def call(records, patterns, **options):
        options = {"api": f"{site.address}/api", "retry": RetryPolicy(retries=1, pause=0.001)} | options
        return list_files(entry(records=records, patterns=patterns), FetchOptions(**options))

    return call


def test_files_of_a_record(site, listing):
    site.files["/api/12"] = record("README.md", "B2.zip", "b1.zip", licence={"id": "cc-by-4.0"})
    site.answers["/api/12"] = [Answer(status=504)]  # the record is asked again
    listed = listing((12,), ("B*.zip",))
    assert listed.files == (
        RemoteFile("B2.zip", "https://zenodo.org/B2.zip/content", 7, MD5),
        RemoteFile("b1.zip", "https://zenodo.org/b1.zip/content", 7, MD5),
    )
    assert (listed.licence, listed.record) == ("cc-by-4.0", "12")


def test_the_first_record_with_such_files_counts_and_a_mirror_has_its_names(site, listing):
    site.files["/api/1"], site.files["/api/2"] = record("a.zip"), record("b c.zip")
    listed = listing((1, 2), ("b*",), mirror="https://example.org/x/")
    assert [file.url for file in listed.files] == ["https://example.org/x/b%20c.zip"]
    assert (listed.licence, listed.record) == (None, "2")


def test_a_record_without_such_files_says_what_it_has(site, listing):
    site.files["/api/1"], site.files["/api/2"] = record("a.zip", "c.zip"), record()
    with pytest.raises(DataError, match=r"no file like \['b\*'\] .*: 1 has a.zip, c.zip; 2 has no files"):
        listing((1, 2), ("b*",))


@pytest.mark.parametrize(
    "answer", [b"{", b"[]", b"{}", b'{"files": [{"key": "a"}]}', b'{"files": 3}', b'{"files": [3]}', b"\xff"]
)
def test_an_answer_that_is_no_listing(site, listing, answer):
    site.files["/api/1"] = answer
    with pytest.raises(DataError, match=r"/api/1: the answer is no listing of files .*source=PATH"):
        listing((1,), ("*",))


@pytest.mark.parametrize("name", ["../a.zip", "a/b.zip", ".hidden"])
def test_names_with_folders_are_refused(site, listing, name):
    site.files["/api/1"] = record(name)
    with pytest.raises(ConfigError, match="is no name of a file"):
        listing((1,), ("*",))


def test_files_of_the_configuration():
    files = ({"name": "a.zip", "url": "https://a", "checksum": MD5, "size": 3}, {"name": "b"})
    assert list_files(entry(files=files), FetchOptions(mirror="https://m")).files == (
        RemoteFile("a.zip", "https://m/a.zip", 3, MD5),
        RemoteFile("b", "https://m/b"),
    )
    assert list_files(entry(files=files[:1]), FetchOptions()).files[0].url == "https://a"
    with pytest.raises(ConfigError, match=r"needs a name and a url \(or give mirror=URL\)"):
        list_files(entry(files=files), FetchOptions())
    with pytest.raises(ConfigError, match="bg: neither files nor records are known; give source=PATH"):
        list_files(entry(), FetchOptions())


def test_commands_of_other_tools():
    lines = download_commands([RemoteFile("a.zip", "https://m/a?x=1&y"), RemoteFile("b.zip", "https://m/b")])
    assert lines[1:] == [
        "curl -C - -L -o a.zip 'https://m/a?x=1&y'",
        "curl -C - -L -o b.zip https://m/b",
        "or with aria2c: aria2c -c -x 4 -o a.zip 'https://m/a?x=1&y'",
    ]
