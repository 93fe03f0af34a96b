"""Ownership of directories: real processes, and records as another machine without shared locks writes them."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.experiments.sweeping import wait_for
from tracegrad.errors import InUseError
from tracegrad.system.ownership import FILE, OwnerWatch, inherit_ownership, read_owner, take_ownership
from tracegrad.system.processes import start_time

ROOT = Path(__file__).parents[2]
HEAD = (
    "import os, subprocess, sys, time\n"
    "from tracegrad.system.ownership import inherit_ownership, read_owner, take_ownership\n"
)


@contextmanager
def python(code: str, *arguments: object, **options: object) -> Iterator[subprocess.Popen[str]]:
    """A process that runs the code, until the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD + code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,  # type: ignore[call-overload]
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def elsewhere(directory: Path, **changes: object) -> dict:
    """A record of a process on another machine, which renews it ten times a second."""
    with take_ownership(directory, "training", command="train a=b", every=0.1):
        values = json.loads((directory / FILE).read_text())
    values |= {"host": "node17", "machine": "another kernel", "token": "other", **changes}
    directory.mkdir(exist_ok=True)
    (directory / FILE).write_text(json.dumps(values))
    return values


@contextmanager
def renewed(directory: Path, values: dict) -> Iterator[None]:
    """The other machine lives as long as the block."""
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(0.05):
            values["beat"] += 1
            with (directory / FILE).open("r+") as file:
                file.write(json.dumps(values).ljust(4095))

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_the_error_of_the_second_process_names_the_first_one(tmp_path: Path) -> None:
    directory = tmp_path / "runs" / "run"
    with python(
        "take_ownership(sys.argv[1], 'training', command='train x=1'); time.sleep(60)", directory
    ) as first:
        wait_for(lambda: read_owner(directory))
        said = rf"in use by training, process {first.pid} on {socket.gethostname()}, since 20.* UTC \(train x=1\)"
        with pytest.raises(InUseError, match=said):
            take_ownership(directory, "training")
        assert OwnerWatch(directory).owner().pids == [first.pid]  # type: ignore[union-attr]
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        assert (directory / FILE).exists()
        assert OwnerWatch(directory).owner() is None
        take_ownership(directory, "training").release()  # at once, and without a person who removes something
    assert not (directory / FILE).exists()


def test_a_clean_end_leaves_nothing(tmp_path: Path) -> None:
    with take_ownership(tmp_path / "runs" / "run", "training"):
        assert (tmp_path / "runs" / "run" / FILE).exists()
    assert not (tmp_path / "runs").exists()
    with take_ownership(tmp_path / "runs" / "run", "training") as ownership:
        (tmp_path / "runs" / "run" / "config.yaml").touch()
        ownership.release()
        ownership.release()
    assert [path.name for path in (tmp_path / "runs" / "run").iterdir()] == ["config.yaml"]


def test_a_directory_that_was_moved_is_released(tmp_path: Path) -> None:
    with take_ownership(tmp_path / "run", "training", every=0.05):
        (tmp_path / "run").rename(tmp_path / "moved")
        with take_ownership(tmp_path / "run", "training"):
            time.sleep(0.2)  # the first owner does not take the new directory for its own
            assert read_owner(tmp_path / "moved") is not None
    assert read_owner(tmp_path / "moved") is None
    assert OwnerWatch(tmp_path / "moved").owner() is None


def test_an_owner_on_another_machine_is_seen_without_its_lock(tmp_path: Path) -> None:
    values = elsewhere(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    said: list[str] = []
    watch = OwnerWatch(tmp_path)
    with renewed(tmp_path, values):
        with pytest.raises(
            InUseError, match=r"in use by training, process \d+ on node17, since .* \(train a=b\)"
        ):
            take_ownership(tmp_path, "training", report=said.append)
        assert watch.owner().host == "node17"  # type: ignore[union-attr]
        assert watch.undecided
        wait_for(lambda: watch.owner() and not watch.undecided)
        assert watch.owner().pids == []  # type: ignore[union-attr]
    assert read_owner(tmp_path).token == "other"  # type: ignore[union-attr]
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert len(said) == 1


def test_an_owner_on_another_machine_that_is_gone_is_replaced(tmp_path: Path) -> None:
    elsewhere(tmp_path)
    watch = OwnerWatch(tmp_path)
    assert watch.owner() is not None
    wait_for(lambda: watch.owner() is None)
    assert not watch.undecided
    said: list[str] = []
    with take_ownership(tmp_path, "training", report=said.append):
        assert read_owner(tmp_path).host == socket.gethostname()  # type: ignore[union-attr]
    assert "node17" in said[0]
    assert said[1].endswith("node17 has not renewed its record; the directory is taken over")


def test_a_replaced_owner_exits_immediately(tmp_path: Path) -> None:
    """For example a process that was suspended while another machine took over the directory."""
    code = "take_ownership(sys.argv[1], 'training', every=0.05); time.sleep(60); print('still there')"
    with python(code, tmp_path) as first:
        wait_for(lambda: read_owner(tmp_path))
        values = json.loads((tmp_path / FILE).read_text()) | {"host": "node17", "token": "other"}
        with renewed(tmp_path, values):
            out, error = first.communicate(timeout=20)
    assert first.returncode == 1
    assert out == ""
    assert f"error: {tmp_path} was taken over by training, process {first.pid} on node17" in error


def test_workers_of_a_killed_owner_hold_no_lock(tmp_path: Path) -> None:
    code = (
        "take_ownership(sys.argv[1], 'training'); os.fork() or time.sleep(60); "
        "print('ready', flush=True); time.sleep(60)"
    )
    with python(code, tmp_path) as first:
        worker = first.stdout.readline() and True  # type: ignore[union-attr]
        assert worker
        children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        try:
            take_ownership(tmp_path, "training").release()
        finally:
            for child in children:
                os.kill(int(child), signal.SIGKILL)


def test_an_ownership_that_is_passed_on_outlives_the_process_that_took_it(tmp_path: Path) -> None:
    child = "inherit_ownership(sys.argv[1]) or sys.exit(1); print('child', flush=True); time.sleep(60)"
    code = (
        "first = take_ownership(sys.argv[1], 'training of a sweep', every=0.05)\n"
        "subprocess.Popen([sys.executable, '-c', sys.argv[2], sys.argv[1]], pass_fds=[first.descriptor],"
        " env=os.environ | first.shared).wait()"
    )
    with python(code, tmp_path, HEAD + child) as first:
        assert first.stdout.readline() == "child\n"  # type: ignore[union-attr]
        owner = OwnerWatch(tmp_path).owner()
        assert owner is not None
        assert owner.pids[0] == first.pid
        own_child = owner.pids[1]
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        with pytest.raises(InUseError, match=f"training of a sweep, process {own_child} on"):
            take_ownership(tmp_path, "training")
        assert OwnerWatch(tmp_path).owner().pids == [own_child]  # type: ignore[union-attr]
        os.kill(own_child, signal.SIGKILL)
    wait_for(lambda: OwnerWatch(tmp_path).owner() is None)


def test_nothing_is_inherited_without_an_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert inherit_ownership(tmp_path) is None
    monkeypatch.setenv("TRACEGRAD_OWNER", "1")  # a file, but not that of this directory
    assert inherit_ownership(tmp_path) is None
    assert "TRACEGRAD_OWNER" not in os.environ


def test_another_process_with_the_number_of_the_owner_is_not_the_owner(tmp_path: Path) -> None:
    with take_ownership(tmp_path, "training"):
        values = json.loads((tmp_path / FILE).read_text())
        assert OwnerWatch(tmp_path).owner().pids == [os.getpid()]  # type: ignore[union-attr]
        values["processes"] = [[os.getpid(), "0"]]
        (tmp_path / FILE).write_text(json.dumps(values))
        assert OwnerWatch(tmp_path).owner().pids == []  # type: ignore[union-attr]


def test_start_times_distinguish_processes() -> None:
    with python("time.sleep(60)") as first:
        started = start_time(first.pid)
        assert started not in (None, start_time(os.getpid()))
        assert start_time(first.pid) == started
        os.kill(first.pid, signal.SIGKILL)
        wait_for(lambda: start_time(first.pid) is None)  # though nobody has asked for its status yet


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record protects the directory while its process runs, and does not block it afterwards."""

    def refuse(descriptor: int, kind: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    said: list[str] = []
    with take_ownership(tmp_path / "run", "training", every=0.2, report=said.append) as first:
        assert OwnerWatch(tmp_path / "run").owner() == read_owner(tmp_path / "run")
        with pytest.raises(InUseError, match=rf"in use by training, process {os.getpid()} on"):
            take_ownership(tmp_path / "run", "training", report=said.append)
        assert first.owner.pids == [os.getpid()]
    assert "cannot be locked (Function not implemented); use a file system with flock" in said[0]
    assert not (tmp_path / "run").exists()
    with python(
        "take_ownership(sys.argv[1], 'training'); print('owner', flush=True); time.sleep(60)",
        tmp_path / "run",
    ) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == "owner\n"
        with pytest.raises(InUseError, match=f"process {killed.pid} on"):
            take_ownership(tmp_path / "run", "training", report=said.append)
    with take_ownership(tmp_path / "run", "training", every=0.2, report=said.append):
        pass
