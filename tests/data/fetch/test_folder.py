import fcntl

import pytest

from tracegrad.data.fetch.folder import DownloadFolder
from tracegrad.errors import DataError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_second_process_is_refused_and_leaves_the_lock(tmp_path):
    folder = tmp_path / "downloads" / "qs"
    with DownloadFolder(folder).locked():
        with (
            pytest.raises(DataError, match="another process is fetching this database; wait for it"),
            DownloadFolder(folder).locked(),
        ):
            pass
        assert names(folder) == [".lock"]
    assert names(tmp_path) == []


def test_a_lock_that_its_owner_removes_meanwhile_is_taken_anew(tmp_path, monkeypatch):
    """The second process has opened the lock of the first when that one ends."""
    folder = tmp_path / "downloads" / "qs"
    first = DownloadFolder(folder).locked()
    first.__enter__()
    flock, ended = fcntl.flock, []

    def late(lock, kind):
        if not ended:
            ended.append(first.__exit__(None, None, None))
        return flock(lock, kind)

    monkeypatch.setattr("tracegrad.system.locks.fcntl.flock", late)
    with DownloadFolder(folder).locked():
        assert names(folder) == [".lock"]


def test_only_downloaded_archives_are_removed(tmp_path):
    folder = tmp_path / "downloads" / "qs"
    folder.mkdir(parents=True)
    for name in ("a.zip", "a.zip.part.json", "b.zip", "tmp_notes.txt", "tmpab12cd34"):
        (folder / name).write_text(name)
    downloads = DownloadFolder(folder)
    with downloads.locked():
        downloads.remove([folder / "a.zip", folder / "b.zip"])
    assert names(folder) == [".lock", "b.zip", "tmp_notes.txt"]
