import fcntl

import pytest

from tracegrad.data.fetch.downloads import Downloads
from tracegrad.errors import DataError


def held(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_refused_process_leaves_the_lock_of_the_first(tmp_path):
    folder = tmp_path / "downloads" / "qs"
    with Downloads(folder, [5]).alone():
        (folder / "record-5.json").write_text("{}")
        for _ in range(2):
            with (
                pytest.raises(DataError, match="another process is fetching this database; wait for it"),
                Downloads(folder, [5]).alone(),
            ):
                pass
            assert held(folder) == [".lock", "record-5.json"]
    assert held(tmp_path) == []


def test_a_lock_that_its_holder_removes_meanwhile_is_taken_anew(tmp_path, monkeypatch):
    """The second process has opened the lock of the first when that one ends."""
    folder = tmp_path / "downloads" / "qs"
    first = Downloads(folder).alone()
    first.__enter__()
    flock, ended = fcntl.flock, []

    def late(lock, kind):
        if not ended:
            ended.append(first.__exit__(None, None, None))
        return flock(lock, kind)

    monkeypatch.setattr("tracegrad.system.locks.fcntl.flock", late)
    with Downloads(folder).alone():
        assert held(folder) == [".lock"]
        with pytest.raises(DataError, match="another process"), Downloads(folder).alone():
            pass


def test_only_files_downloaded_here_are_removed(tmp_path):
    folder = tmp_path / "downloads" / "qs"
    downloads = Downloads(folder)
    with downloads.alone():
        for name in ("a.zip", "b.zip", "c.zip", "c.zip.bad"):
            (folder / name).write_text(name)
        for name in ("a.zip", "c.zip"):
            downloads.note(folder / name)
        assert downloads.set_aside([folder / "a.zip"]).startswith("kept as a.zip.bad; the same command")
        assert downloads.set_aside([folder / "b.zip"]).startswith("b.zip was not downloaded by this command")
        for name in ("a.zip", "c.zip.part", "c.zip.part.json"):
            (folder / name).write_text(name)
        (tmp_path / "a.zip").write_text("of the user")
        Downloads(folder).remove([folder / name for name in ("a.zip", "b.zip", "c.zip")])
    # The second a.zip was put there by the user after the download was set aside.
    assert held(folder) == [".lock", "a.zip", "b.zip", "c.zip.bad"]
    assert held(tmp_path) == ["a.zip", "downloads"]
