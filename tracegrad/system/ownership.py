"""Exclusive ownership of directories: one process may write, and others can see which one it is.

The owner holds a lock on the file ``.owner``, which the operating system releases when the process ends in any way.
The file also holds a record of the owner, which it renews every few seconds. On shared storage without locks between
machines, and on file systems without locks, this record decides: a process that meets a record of another machine
watches whether it is renewed. Thus a crash leaves nothing that has to be removed by hand.
"""

import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from textwrap import shorten
from typing import Any

from tracegrad.errors import InUseError, TraceGradError
from tracegrad.system.locks import NoLocks, is_locked, take_lock
from tracegrad.system.processes import machine_id, start_time

FILE = ".owner"
# Environment variable that passes the descriptor of a shared ownership to a child process.
INHERITED = "TRACEGRAD_OWNER"
BEAT = 5.0  # seconds between two renewals
_MISSED_BEATS = 6  # renewals that an owner on another machine may miss before it counts as ended
_PATIENCE = 1.0  # seconds to wait for a lock that another process may hold only to test it
_BLOCK = 4096  # bytes of the file, written at once
_LONGEST = 500  # characters of a command


@dataclass(frozen=True)
class Owner:
    """Record of the owner of a directory.

    Attributes:
        kind: kind of process, such as "training".
        command: its command line.
        host: name of its machine.
        machine: identity of its running kernel, see `machine_id`.
        started: time at which it took the directory (UTC, ISO 8601).
        launch: identity of the launch, the same for all ranks of a distributed run; "" if unknown.
        token: random text shared by all processes of this ownership.
        processes: process number and start time of each of these processes, the first owner first.
        every: seconds between two renewals.
        beat: number that changes at each renewal.
    """

    kind: str
    command: str
    host: str
    machine: str
    started: str
    launch: str
    token: str
    processes: tuple[tuple[int, str], ...]
    every: float
    beat: int

    @property
    def here(self) -> bool:
        """Whether the owner is or was a process of this machine."""
        return self.machine == machine_id()

    @property
    def pids(self) -> list[int]:
        """Numbers of its running processes; empty if they are on another machine or in another container."""
        if not self.here or self.host != socket.gethostname():
            return []
        return [pid for pid, started in self.processes if start_time(pid) == started]

    def __str__(self) -> str:
        since = self.started.replace("T", " ").replace("+00:00", " UTC")
        command = shorten(self.command, 160, placeholder=" ...")
        return f"{self.kind}, process {self.processes[-1][0]} on {self.host}, since {since} ({command})"


def read_owner(directory: str | Path) -> Owner | None:
    """The owner recorded in a directory, which may have ended; None without a record."""
    for _ in range(5):
        try:
            text = (Path(directory) / FILE).read_text(encoding="utf-8")
        except OSError:
            return None
        if not text:  # released
            return None
        try:
            values = json.loads(text)
            processes = tuple((int(pid), str(started)) for pid, started in values["processes"])
            recorded = {entry.name: values[entry.name] for entry in fields(Owner)}
            return Owner(**{**recorded, "processes": processes}) if processes else None
        except (ValueError, KeyError, TypeError):
            time.sleep(0.02)  # the file may be in the middle of a write
    return None


class OwnerWatch:
    """Finds the current owner of a directory; for an owner on another machine this takes several calls of `owner`.

    Attributes:
        undecided: whether further calls are needed to decide if the owner is alive.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.undecided = False
        self._beat: tuple[str, int] | None = None
        self._since = 0.0
        self._moved = False

    def owner(self) -> Owner | None:
        """The current owner; one on another machine is returned until it has missed too many renewals."""
        owner, self.undecided = read_owner(self.directory), False
        if owner is None or _is_held(self.directory, owner):
            return owner
        if owner.here:
            return None  # its lock was released when it ended
        beat, now = (owner.token, owner.beat), time.monotonic()
        if beat != self._beat:
            self._moved = self._beat is not None
            self._beat, self._since = beat, now
        elif now - self._since >= owner.every * _MISSED_BEATS:
            return None
        self.undecided = not self._moved
        return owner


class Ownership:
    """A directory that this process owns until `release` or until the process ends.

    A thread renews the record. If this process or its storage was suspended for so long that another machine has
    taken over the directory, the process exits immediately, before it writes to a directory that it does not own any
    more. Processes that are forked from this one do not share the ownership.

    Args:
        descriptor: descriptor of its record, which is locked.
        created: folders that were created for the directory, the innermost first; they are removed if they stay
            empty.
        inherited: the ownership is shared with the parent process, which removes the record.
    """

    def __init__(
        self,
        directory: Path,
        descriptor: int,
        owner: Owner,
        *,
        created: Sequence[Path],
        inherited: bool = False,
    ) -> None:
        self.directory, self.descriptor, self.owner = directory, descriptor, owner
        self._created = created
        self._inherited, self._pid, self._place = inherited, os.getpid(), os.stat(directory)
        self._ended = threading.Event()
        _write(descriptor, owner)
        _descriptors.add(descriptor)
        self._thread = threading.Thread(target=self._renew, name="owner", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Ownership":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Release the directory and remove the record."""
        if self._ended.is_set() or self._pid != os.getpid():
            return
        self._ended.set()
        self._thread.join()
        _descriptors.discard(self.descriptor)
        with suppress(OSError):
            if not self._inherited:
                path = self.directory / FILE
                # If the directory was moved, only the empty record shows that it is free.
                os.ftruncate(self.descriptor, 0)
                if os.path.samestat(os.stat(path), os.fstat(self.descriptor)):
                    path.unlink()
                    for folder in self._created:
                        folder.rmdir()
        os.close(self.descriptor)

    @property
    def shared(self) -> dict[str, str]:
        """Environment for a child process that inherits `descriptor` and shares the ownership."""
        return {INHERITED: str(self.descriptor)}

    def _renew(self) -> None:
        this_process = self.owner.processes[-1]
        while not self._ended.wait(self.owner.every):
            owner = self._recorded()
            if owner is not None and owner.token != self.owner.token:
                print(
                    f"error: {self.directory} was taken over by {owner}; this process ends", file=sys.stderr
                )
                sys.stderr.flush()
                os._exit(1)
            if (
                owner is None or this_process not in owner.processes
            ):  # damaged, or two processes wrote at once
                owner = self.owner
            with suppress(OSError):  # a disk may be full temporarily
                _write(self.descriptor, replace(owner, beat=time.time_ns()))

    def _recorded(self) -> Owner | None:
        """The recorded owner. It is read through its path, so that network storage asks the server."""
        with suppress(OSError):
            if os.path.samestat(os.stat(self.directory), self._place):  # the directory was not moved
                return read_owner(self.directory)
        return None


def take_ownership(
    directory: str | Path,
    kind: str,
    *,
    command: str = "",
    launch: str = "",
    every: float = BEAT,
    report: Callable[[str], None] = print,
) -> Ownership:
    """Make this process the owner of a directory, which is created if missing.

    Args:
        kind: kind of this process in the record, such as "training".
        command: command in the record; "": the command line of this process.
        launch: identity of the launch, the same for all ranks of a distributed run.
        every: seconds between two renewals of the record.
        report: prints a line when the process waits for the owner on another machine or takes over its directory.

    Raises:
        InUseError: another process owns the directory; nothing in it was changed.
        TraceGradError: the directory cannot be created or written.
    """
    directory = Path(directory)
    created = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    try:
        descriptor, locked = _lock(directory, report)
        if descriptor is None:
            raise _in_use(directory, read_owner(directory))
        try:
            waited = _wait_for_other_machine(directory, report)
            me = Owner(
                kind=kind,
                command=(command or " ".join([Path(sys.executable).name, *sys.argv]))[:_LONGEST],
                host=socket.gethostname(),
                machine=machine_id(),
                started=datetime.now(UTC).isoformat(timespec="seconds"),
                launch=launch,
                token=secrets.token_hex(8),
                processes=((os.getpid(), start_time(os.getpid()) or ""),),
                every=every,
                beat=time.time_ns(),
            )
            _write(descriptor, me)
            if waited or not locked:  # another process may have taken over at the same time
                time.sleep(every / 2)
                now = read_owner(directory)
                if now is not None and now.token != me.token:
                    raise _in_use(directory, now)
            return Ownership(directory, descriptor, me, created=created)
        except BaseException:
            os.close(descriptor)
            raise
    except OSError as error:
        raise TraceGradError(
            f"{directory}: cannot be written ({error.strerror or error}); choose another directory"
        ) from error


def _lock(directory: Path, report: Callable[[str], None]) -> tuple[int | None, bool]:
    """Descriptor of the record (None if another process owns the directory), and whether it is locked."""
    path = directory / FILE
    try:
        for _ in range(10):
            # Another process may just have failed to start and remove the folder.
            with suppress(FileNotFoundError):
                return take_lock(path, patience=_PATIENCE), True
        return take_lock(path, patience=_PATIENCE), True
    except NoLocks as error:
        report(
            f"warning: {error}; without locks only the record of the owner, renewed every few seconds, is checked"
        )
        owner = read_owner(directory)
        if owner is not None and owner.pids:
            return None, False
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666), False


def _is_held(directory: Path, owner: Owner) -> bool:
    """Whether the owner holds the lock; without locks, whether it runs on this machine."""
    try:
        return is_locked(directory / FILE)
    except NoLocks:
        return bool(owner.pids)


def inherit_ownership(directory: str | Path) -> Ownership | None:
    """Share the ownership of the parent process, see `Ownership.shared`; None if it does not own the directory."""
    directory, descriptor = Path(directory), int(os.environ.pop(INHERITED, "-1"))
    owner = read_owner(directory)
    try:
        if owner is None or not os.path.samestat(os.fstat(descriptor), os.stat(directory / FILE)):
            return None
    except OSError:
        return None
    os.set_inheritable(descriptor, False)
    me = (os.getpid(), start_time(os.getpid()) or "")
    shared = replace(owner, processes=(owner.processes[0], me), beat=time.time_ns())
    return Ownership(directory, descriptor, shared, created=(), inherited=True)


def _wait_for_other_machine(directory: Path, report: Callable[[str], None]) -> bool:
    """Whether the record names a process of another machine that has ended; raise `InUseError` if it is alive."""
    first = read_owner(directory)
    if first is None or first.here:
        return False
    patience = first.every * _MISSED_BEATS
    report(f"{directory} was not released by {first}: watching for {patience:.0f} s whether it is alive")
    until = time.monotonic() + patience
    while time.monotonic() < until:
        time.sleep(first.every / 4)
        now = read_owner(directory)
        if now is not None and (now.token, now.beat) != (first.token, first.beat):
            raise _in_use(directory, now)
    report(f"{directory}: {first.host} has not renewed its record; the directory is taken over")
    return True


def _in_use(directory: Path, owner: Owner | None) -> InUseError:
    who = owner or "another process"
    return InUseError(f"{directory} is in use by {who}; wait for it, stop it, or choose another directory")


def _write(descriptor: int, owner: Owner) -> None:
    values: dict[str, Any] = asdict(owner)
    data = json.dumps(values, ensure_ascii=False).encode("utf-8", errors="replace")
    os.pwrite(descriptor, data.ljust(_BLOCK - 1) + b"\n", 0)
    os.fsync(descriptor)


_descriptors: set[int] = set()


def _close_in_child() -> None:
    """Close the locks in a forked worker; they would outlive their owner."""
    for descriptor in _descriptors:
        with suppress(OSError):
            os.close(descriptor)
    _descriptors.clear()


os.register_at_fork(after_in_child=_close_in_child)
