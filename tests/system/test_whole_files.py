"""Files and folders are replaced completely or not at all, whatever ends the process."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from tracegrad.errors import TraceGradError
from tracegrad.system.whole_files import replacing, replacing_folder, restore_folder, take_place

# Calls of the system that a replacement makes, in a child process that is killed before or after the n-th of them.
FAULT = """
    import os, shutil, signal, sys
    from pathlib import Path
    from tracegrad.system import whole_files

    number, when, count = int(sys.argv[1]), sys.argv[2], 0

    def counted(call):
        def wrapper(*arguments, **options):
            global count
            count += 1
            if count == number and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            mine = count
            try:
                return call(*arguments, **options)
            finally:
                if mine == number and when == "after":
                    os.kill(os.getpid(), signal.SIGKILL)
        return wrapper

    for name in ("open", "close", "rename", "replace", "unlink", "rmdir", "mkdir", "fsync", "scandir"):
        setattr(os, name, counted(getattr(os, name)))
"""


def killed(body: str, folder: Path, number: int, when: str) -> bool:
    """Whether ``body`` was killed at its n-th system call and did not finish."""
    code = textwrap.dedent(FAULT) + textwrap.dedent(body)
    result = subprocess.run(
        [sys.executable, "-c", code, str(number), when], cwd=folder, capture_output=True, text=True
    )
    assert result.returncode in (0, -signal.SIGKILL), result.stderr
    return result.returncode != 0


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_folder_is_the_old_or_the_new_one_wherever_its_replacement_is_killed(tmp_path, when):
    body = """
        with whole_files.replacing_folder("data") as draft:
            (draft / "a").write_text("new")
            (draft / "c").write_text("new")
    """
    old, new = {"a": "old", "b": "old"}, {"a": "new", "c": "new"}
    seen = []
    for number in range(1, 200):
        place = tmp_path / str(number)
        (place / "data").mkdir(parents=True)
        for name in old:
            (place / "data" / name).write_text("old")
        was_killed = killed(body, place, number, when)
        restore_folder(place / "data")
        assert content(place / "data") in (old, new)
        seen.append(content(place / "data") == new)
        if not was_killed:
            assert [path.name for path in place.iterdir()] == ["data"]
            break
        # The next replacement clears the way whatever the killed one has left.
        with replacing_folder(place / "data") as draft:
            (draft / "d").write_text("newer")
        assert content(place / "data") == {"d": "newer"}
    assert len(seen) > 8
    assert seen == sorted(seen)  # first the old content, from some call on the new one
    assert seen[0] is False
    assert seen[-1] is True


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_file_is_the_old_or_the_new_one_wherever_its_replacement_is_killed(tmp_path, when):
    body = """
        with whole_files.replacing("data.txt") as draft:
            draft.write_text("new")
    """
    seen = []
    for number in range(1, 50):
        place = tmp_path / str(number)
        place.mkdir()
        (place / "data.txt").write_text("old")
        was_killed = killed(body, place, number, when)
        seen.append((place / "data.txt").read_text())
        if not was_killed:
            assert [path.name for path in place.iterdir()] == ["data.txt"]
            break
    assert len(seen) > 4
    assert set(seen) == {"old", "new"}
    assert seen == sorted(seen, reverse=True)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EIO, "broken"), SystemExit(1)])
def test_a_folder_comes_back_when_the_second_rename_fails(tmp_path, monkeypatch, error):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_text("old")

    def fail(self, target):
        raise error

    monkeypatch.setattr(Path, "replace", fail)
    kind = TraceGradError if isinstance(error, OSError) else type(error)
    with pytest.raises(kind), replacing_folder(tmp_path / "data") as draft:
        (draft / "a").write_text("new")
    assert content(tmp_path / "data") == {"a": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_folder_that_cannot_come_back_stays_beside_its_place(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_text("old")
    rename, calls = Path.rename, []

    def fail(self, target):
        calls.append(self)
        if len(calls) > 1:
            raise OSError(errno.EIO, "broken disk")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(TraceGradError, match="broken disk"), replacing_folder(tmp_path / "data") as draft:
        (draft / "a").write_text("new")
    monkeypatch.undo()
    assert not (tmp_path / "data").exists()
    restore_folder(tmp_path / "data")
    assert content(tmp_path / "data") == {"a": "old"}


def test_errors_of_reading_another_file_are_not_called_errors_of_writing(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "out") as draft:
        draft.write_text((tmp_path / "missing").read_text())
    with pytest.raises(IsADirectoryError), replacing_folder(tmp_path / "folder"):
        tmp_path.read_text()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_is_named(tmp_path, number):
    for replace in (replacing, replacing_folder):
        with pytest.raises(TraceGradError, match=r"out: cannot be written \(.*\)"), replace(tmp_path / "out"):
            raise OSError(number, os.strerror(number))


def test_an_impossible_path_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for replace in (replacing, replacing_folder):
        with (
            pytest.raises(TraceGradError, match="out: cannot be written"),
            replace(tmp_path / "file" / "out"),
        ):
            pass


def test_threads_that_write_the_same_file_do_not_share_a_draft(tmp_path):
    barrier, drafts = threading.Barrier(4), []

    def write():
        with replacing(tmp_path / "out") as draft:
            drafts.append(draft)
            barrier.wait()
            draft.write_text(draft.name)
            barrier.wait()

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(drafts)) == 4
    assert (tmp_path / "out").read_text() in {draft.name for draft in drafts}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_drafts_of_killed_processes_are_removed_after_a_day(tmp_path):
    old, young = tmp_path / ".out.0123456789ab.tmp", tmp_path / ".out.cdef01234567.tmp"
    of_the_user = tmp_path / ".out.notes.tmp"
    for path in (old, young, of_the_user):
        path.write_text("half")
    for path in (old, of_the_user):
        os.utime(path, (0, 0))
    with replacing(tmp_path / "out") as draft:
        draft.write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [young.name, of_the_user.name, "out"]


def test_files_have_the_permissions_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "out") as draft:
            draft.write_text("x")
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o640


def test_a_file_and_a_folder_may_change_places(tmp_path):
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("new")
    folder.mkdir()
    (folder / "a").write_text("old")
    take_place(file, folder)
    assert folder.read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    (tmp_path / "other").mkdir()
    take_place(tmp_path / "other", folder)
    assert list(folder.iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
