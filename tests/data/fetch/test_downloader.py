import json
import random
from pathlib import Path

import pytest

from tests.data.fetch.server import Answer
from tracegrad.data.fetch.downloader import ResumingDownloader, RetryPolicy
from tracegrad.errors import DataError

CONTENT = random.Random(0).randbytes(100_000)
QUICK = RetryPolicy(retries=3, pause=0.001, timeout=5.0)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "in" / "a.zip"


@pytest.fixture
def download(site, path):
    """Download a.zip of the site, and return the lines that were reported."""

    def call(on_report=lambda line: None, **options) -> list[str]:
        lines: list[str] = []

        def report(line: str) -> None:
            lines.append(line)
            on_report(line)

        ResumingDownloader(path, QUICK, report, **options)(f"{site.address}/a.zip", path)
        return lines

    site.files["/a.zip"] = CONTENT
    return call


def test_a_file_is_downloaded_with_progress(path, download):
    calls: list[tuple[int, int | None]] = []
    assert download(on_progress=lambda *sizes: calls.append(sizes)) == ["a.zip: downloading"]
    assert path.read_bytes() == CONTENT
    assert (calls[0], calls[-1]) == ((0, 100_000), (100_000, 100_000))
    downloader = ResumingDownloader(path, QUICK)
    downloader.discard()
    assert sorted(file.name for file in path.parent.iterdir()) == ["a.zip", "a.zip.part.json"]


def test_broken_connections_are_resumed_with_ranges(site, path, download):
    site.answers["/a.zip"] = [Answer(after=30_000), Answer(after=0), Answer(after=20_000), Answer(status=504)]
    lines = download()
    assert path.read_bytes() == CONTENT
    assert site.ranges("/a.zip") == [None, "bytes=30000-", "bytes=30000-", "bytes=50000-", "bytes=50000-"]
    assert lines[1].startswith("a.zip: the connection failed (IncompleteRead")
    assert lines[4] == "a.zip: the server answers 504; trying again in 0 s"


def test_new_bytes_reset_the_count_of_failures(site, path, download):
    site.answers["/a.zip"] = [Answer(after=9_000) for _ in range(10)]
    download()
    assert path.read_bytes() == CONTENT


def test_a_server_without_ranges_that_always_breaks_is_given_up(site, download):
    site.default = Answer(after=30_000, ranges=False)
    with pytest.raises(DataError, match=r"given up after 4 failures.*resumes after 30,000 bytes"):
        download()
    assert len(site.asked) == 4


def test_a_server_without_ranges_sends_the_whole_file_again(site, path, download):
    site.answers["/a.zip"] = [Answer(after=30_000), Answer(ranges=False)]
    assert "a.zip: the server sends the whole file again" in download()
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("etag", [True, False])
@pytest.mark.parametrize("other", [CONTENT[::-1] + b"more", CONTENT[:10_000]])
def test_a_file_that_changes_during_the_download_is_downloaded_from_its_beginning(
    site, path, download, etag, other
):
    """Without an ETag the other length shows the change."""
    site.default = Answer(etag=etag)
    site.answers["/a.zip"] = [Answer(after=30_000, etag=etag)]

    def change(line: str) -> None:
        if "trying again" in line:
            site.files["/a.zip"] = other

    download(change)
    assert path.read_bytes() == other


def test_a_complete_partial_file_needs_no_body(site, path, download):
    """The process was killed between the last byte and the renaming."""
    path.parent.mkdir()
    origin = {"url": f"{site.address}/a.zip", "validator": None, "size": len(CONTENT)}
    path.with_name("a.zip.part.json").write_text(json.dumps(origin))
    path.with_name("a.zip.part").write_bytes(CONTENT)
    assert download() == ["a.zip: downloading, resuming after 100.0 kB"]
    assert path.read_bytes() == CONTENT
    assert site.ranges("/a.zip") == ["bytes=100000-"]


@pytest.mark.parametrize("origin", ["{", "[]", '{"url": "http://elsewhere/a.zip"}', '{"nothing": 1}'])
def test_a_partial_file_of_unknown_origin_is_not_used(site, path, download, origin):
    path.parent.mkdir()
    path.with_name("a.zip.part").write_bytes(b"something else")
    path.with_name("a.zip.part.json").write_text(origin)
    download()
    assert path.read_bytes() == CONTENT
    assert site.ranges("/a.zip") == [None]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer(status=404), "the server answers 404 Not Found; see the page of the record"),
        (Answer(kind="text/html; charset=utf-8"), "the server sends a web page in place of a.zip"),
    ],
)
def test_an_answer_that_will_not_change_is_an_error_at_once(site, path, download, answer, message):
    site.default = answer
    with pytest.raises(DataError, match=message):
        download()
    assert len(site.asked) == 1
    assert list(path.parent.iterdir()) == []


def test_no_network(path):
    lines: list[str] = []
    policy = RetryPolicy(retries=1, pause=0.001)
    with pytest.raises(
        DataError,
        match=r"/a: the connection failed \(Connection refused\); given up after 2 failures in a row",
    ):
        ResumingDownloader(path, policy, lines.append)("http://127.0.0.1:1/a", path)
    assert lines[1:] == ["a.zip: the connection failed (Connection refused); trying again in 0 s"]


def test_a_wrong_address(path):
    with pytest.raises(DataError, match="correct the address"):
        ResumingDownloader(path, QUICK)("zenodo.org/a.zip", path)


def test_a_folder_that_cannot_be_made(site, tmp_path):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "a.zip"
    with pytest.raises(DataError, match=r"cannot be written \((Not a directory|File exists)\)"):
        ResumingDownloader(path, QUICK)(f"{site.address}/a.zip", path)
