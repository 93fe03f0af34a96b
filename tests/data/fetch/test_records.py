import json

import pytest

from tests.data.fetch.server import Answer
from tracegrad.data.fetch.download import Patience
from tracegrad.data.fetch.records import named_files, zenodo_files
from tracegrad.errors import ConfigError, DataError

MD5 = "md5:0cc175b9c0f1b6a831c399e269772661"


def record(*names: str, licence: object = None) -> bytes:
    """As Zenodo's API answers, cut to what is read."""
    files = [
        {"key": name, "size": 7, "checksum": MD5, "links": {"self": f"https://zenodo.org/{name}/content"}}
        for name in names
    ]
    return json.dumps({"id": 1, "files": files, "metadata": {"license": licence}}).encode()


@pytest.fixture
def listing(site, tmp_path):
    def call(records, patterns, **options):
        patience = Patience(retries=1, pause=0.001)
        return zenodo_files(
            records, patterns, tmp_path, api=f"{site.address}/api", patience=patience, **options
        )

    return call


def test_files_of_a_record(site, listing):
    site.files["/api/12"] = record("README.md", "B2.zip", "b1.zip", licence={"id": "cc-by-4.0"})
    found = listing([12], ["B*.zip"])
    assert [(file.name, file.url, file.size, file.checksum) for file in found.files] == [
        ("B2.zip", "https://zenodo.org/B2.zip/content", 7, MD5),
        ("b1.zip", "https://zenodo.org/b1.zip/content", 7, MD5),
    ]
    assert (found.licence, found.record) == ("cc-by-4.0", "12")


def test_the_first_record_with_such_files_counts_and_a_mirror_has_its_names(site, listing):
    site.files["/api/1"], site.files["/api/2"] = record("a.zip"), record("b c.zip")
    found = listing([1, 2], ["b*"], mirror="https://example.org/x/")
    assert [file.url for file in found.files] == ["https://example.org/x/b%20c.zip"]
    assert (found.licence, found.record) == (None, "2")


def test_a_record_without_such_files_says_what_it_has(site, listing):
    site.files["/api/1"], site.files["/api/2"] = record("a.zip", "c.zip"), record()
    with pytest.raises(
        DataError, match=r"no file like \['b\*'\] in the records: 1 has a.zip, c.zip; 2 has no"
    ):
        listing([1, 2], ["b*"])


@pytest.mark.parametrize(
    "answer", [b"{", b"[]", b"{}", b'{"files": [{"key": "a"}]}', b'{"files": 3}', b'{"files": [3]}', b"\xff"]
)
def test_an_answer_that_is_no_listing(site, listing, answer):
    site.files["/api/1"] = answer
    with pytest.raises(DataError, match=r"/api/1: the answer is no listing of files .*source=PATH"):
        listing([1], ["*"])


def test_a_listing_is_asked_for_again(site, listing):
    site.files["/api/1"] = record("a.zip")
    site.answers["/api/1"] = [Answer(status=504)]
    assert len(listing([1], ["*"]).files) == 1


@pytest.mark.parametrize("name", ["../a.zip", "a/b.zip", "", ".hidden"])
def test_names_lead_nowhere_else(site, listing, name):
    site.files["/api/1"] = record(name)
    with pytest.raises(ConfigError, match="is no name of a file"):
        listing([1], ["*", ""])


def test_named_files():
    entries = [{"name": "a.zip", "url": "https://a", "checksum": MD5, "size": 3}, {"name": "b"}]
    found = named_files(entries, "https://m")
    assert [(file.url, file.size, file.checksum) for file in found.files] == [
        ("https://m/a.zip", 3, MD5),
        ("https://m/b", None, None),
    ]
    assert named_files(entries[:1], None).files[0].url == "https://a"
    with pytest.raises(ConfigError, match=r"needs a name and a url \(or give mirror=URL\)"):
        named_files(entries, None)
