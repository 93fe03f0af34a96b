import json
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.data.fetch.server import Answer
from tracegrad.data.fetch.download import Patience, download, present
from tracegrad.errors import DataError

CONTENT = random.Random(0).randbytes(100_000)
QUICK = Patience(retries=3, pause=0.001, longest_pause=0.01, timeout=5.0)


@pytest.fixture
def get(site, tmp_path):
    """Download a.zip of the site; what comes back are the lines that were reported."""

    def call(**options) -> list[str]:
        lines: list[str] = []
        options = {"patience": QUICK, "report": lines.append} | options
        download(f"{site.address}/a.zip", tmp_path / "in" / "a.zip", **options)
        return lines

    site.files["/a.zip"] = CONTENT
    return call


def leftovers(tmp_path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "in").iterdir())


def test_a_file_is_downloaded_with_progress(site, tmp_path, get):
    seen: list[tuple[int, int | None]] = []
    assert get(size=len(CONTENT), on_progress=lambda *at: seen.append(at)) == []
    assert (tmp_path / "in" / "a.zip").read_bytes() == CONTENT
    assert leftovers(tmp_path) == ["a.zip"]
    assert (seen[0], seen[-1]) == ((0, 100_000), (100_000, 100_000))


def test_broken_connections_go_on_with_ranges(site, tmp_path, get):
    site.answers["/a.zip"] = [Answer(after=30_000), Answer(after=0), Answer(after=20_000), Answer(status=504)]
    lines = get()
    assert (tmp_path / "in" / "a.zip").read_bytes() == CONTENT
    assert site.ranges("/a.zip") == [None, "bytes=30000-", "bytes=30000-", "bytes=50000-", "bytes=50000-"]
    assert len(lines) == 4
    assert "the connection broke" in lines[0]
    assert "the server answers 504; trying again" in lines[3]


def test_new_bytes_renew_the_patience(site, tmp_path, get):
    """More failures than retries, but never so many in a row without a new byte."""
    site.answers["/a.zip"] = [Answer(after=9_000) for _ in range(10)]
    get()
    assert (tmp_path / "in" / "a.zip").read_bytes() == CONTENT


def test_a_server_without_ranges_that_always_breaks_is_given_up(site, tmp_path, get):
    site.default = Answer(after=30_000, ranges=False)
    with pytest.raises(DataError, match=r"given up after 4 tries.*goes on after 30,000 bytes"):
        get()
    assert len(site.asked) == 4


def test_a_server_without_ranges_starts_anew(site, tmp_path, get):
    site.answers["/a.zip"] = [Answer(after=30_000), Answer(ranges=False)]
    assert "a.zip: starting anew: the server sends whole files only" in get()
    assert (tmp_path / "in" / "a.zip").read_bytes() == CONTENT


@pytest.mark.parametrize("etag", [True, False])
def test_a_file_that_changes_in_between_starts_anew(site, tmp_path, get, etag):
    """Without an ETag another length gives it away."""
    site.default = Answer(etag=etag)
    site.answers["/a.zip"] = [Answer(after=30_000, etag=etag)]
    other = CONTENT[::-1] + (b"" if etag else b"more")

    def report(line: str) -> None:
        lines.append(line)
        site.files["/a.zip"] = other

    lines: list[str] = []
    get(report=report)
    assert (tmp_path / "in" / "a.zip").read_bytes() == other
    assert any("starting anew: the file on the server has changed" in line for line in lines)


def test_a_file_that_became_shorter_starts_anew(site, tmp_path, get):
    site.default = Answer(etag=False)
    site.answers["/a.zip"] = [Answer(after=30_000, etag=False)]
    get(report=lambda line: site.files.update({"/a.zip": CONTENT[:10_000]}))
    assert (tmp_path / "in" / "a.zip").read_bytes() == CONTENT[:10_000]


def test_a_part_that_is_complete_needs_no_body(site, tmp_path, get):
    """Killed between the last byte and the renaming."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.zip.part").write_bytes(CONTENT)
    state = {"url": f"{site.address}/a.zip", "validator": None, "size": len(CONTENT)}
    (folder / "a.zip.part.json").write_text(json.dumps(state))
    get(size=len(CONTENT))
    assert (folder / "a.zip").read_bytes() == CONTENT
    assert leftovers(tmp_path) == ["a.zip"]


@pytest.mark.parametrize("state", ["{", "[]", '{"url": "http://elsewhere/a.zip"}', '{"nothing": 1}'])
def test_a_part_of_unknown_origin_is_not_used(site, tmp_path, get, state):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.zip.part").write_bytes(b"something else")
    (folder / "a.zip.part.json").write_text(state)
    get()
    assert (folder / "a.zip").read_bytes() == CONTENT
    assert site.ranges("/a.zip") == [None]


def test_a_server_may_ask_to_wait(site, tmp_path, get):
    site.answers["/a.zip"] = [Answer(status=429, headers=(("Retry-After", "3600"),))]
    begin = time.monotonic()
    assert get() == ["a.zip: the server answers 429; trying again in 0 s"]
    assert time.monotonic() - begin < 2  # no longer than longest_pause


@pytest.mark.parametrize(
    ("answer", "options", "message"),
    [
        (Answer(status=404), {}, "the server answers 404 Not Found; see the page of the record"),
        (Answer(kind="text/html; charset=utf-8"), {}, "the server sends a web page in place of a.zip"),
        (Answer(headers=(("Content-Encoding", "gzip"),)), {}, "the server sends gzip in place of the file"),
        (Answer(), {"size": 99}, "100,000 bytes, but the record says 99"),
    ],
)
def test_an_answer_that_will_not_change_is_an_error_at_once(site, tmp_path, get, answer, options, message):
    site.default = answer
    with pytest.raises(DataError, match=message):
        get(**options)
    assert len(site.asked) == 1
    assert leftovers(tmp_path) == []


def test_no_network(tmp_path):
    lines: list[str] = []
    patience = Patience(retries=1, pause=0.001)
    with pytest.raises(DataError, match=r"no answer \(Connection refused\); given up after 2 tries"):
        download("http://127.0.0.1:1/a", tmp_path / "a", patience=patience, report=lines.append)
    assert len(lines) == 1


def test_a_wrong_address(tmp_path):
    with pytest.raises(DataError, match="correct the address"):
        download("zenodo.org/a.zip", tmp_path / "a.zip", patience=QUICK)


def test_a_folder_that_cannot_be_made(site, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be written \((Not a directory|File exists)\)"):
        download(f"{site.address}/a.zip", tmp_path / "file" / "a.zip", patience=QUICK)


def test_a_killed_download_goes_on(site, tmp_path, get):
    site.answers["/a.zip"] = [Answer(after=60_000, stall=True)]
    path = tmp_path / "in" / "a.zip"
    code = f"from tracegrad.data.fetch.download import download; download({site.address + '/a.zip'!r}, {str(path)!r})"
    # The 60,000 bytes are less than a chunk: they reach the disk only where chunks are small.
    code = f"import tracegrad.data.fetch.download as d; d.CHUNK = 5_000; {code}"
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 30
    while present(path) < 40_000 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = present(path)
    assert 40_000 <= there <= 60_000
    get()
    assert path.read_bytes() == CONTENT
    assert site.ranges("/a.zip") == [None, f"bytes={there}-"]
