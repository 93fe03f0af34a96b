"""Locks: asking for them neither disturbs other processes nor leaves files."""

import fcntl
import os
from pathlib import Path

import pytest

from tracegrad.errors import TraceGradError
from tracegrad.system.locks import is_locked, take_lock


def test_asking_leaves_no_file(tmp_path: Path) -> None:
    assert not is_locked(tmp_path / "lock")
    assert not list(tmp_path.iterdir())


def test_a_lock_is_visible_until_it_is_released(tmp_path: Path) -> None:
    lock = take_lock(tmp_path / "lock")
    assert lock is not None
    assert is_locked(tmp_path / "lock")
    assert take_lock(tmp_path / "lock") is None
    os.close(lock)
    assert not is_locked(tmp_path / "lock")


def test_two_processes_that_ask_at_the_same_time_do_not_see_each_other(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    with path.open() as other:
        fcntl.flock(other, fcntl.LOCK_SH)  # as a process does that asks
        assert not is_locked(path)


def test_unreadable_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(
        TraceGradError, match=r"lock: cannot be read \(Permission denied\); check its permissions"
    ):
        is_locked(tmp_path / "lock")
