"""Locks: who asks disturbs nobody and leaves nothing."""

import fcntl
import os
from pathlib import Path

import pytest

from tracegrad.errors import TraceGradError
from tracegrad.system.locks import is_locked, take_lock


def test_asking_leaves_no_file(tmp_path: Path) -> None:
    assert not is_locked(tmp_path / "lock")
    assert not list(tmp_path.iterdir())


def test_a_lock_is_seen_until_it_is_given_back(tmp_path: Path) -> None:
    lock = take_lock(tmp_path / "lock")
    assert lock is not None
    assert is_locked(tmp_path / "lock")
    assert take_lock(tmp_path / "lock") is None
    os.close(lock)
    assert not is_locked(tmp_path / "lock")


def test_two_who_ask_at_once_are_no_owners(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    with path.open() as other:
        fcntl.flock(other, fcntl.LOCK_SH)  # as a process does that asks
        assert not is_locked(path)


def test_what_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(
        TraceGradError, match=r"lock: cannot be read \(Permission denied\); check its permissions"
    ):
        is_locked(tmp_path / "lock")
