"""Directories with one owner: a process that alone may write there, and that others can name.

The owner holds a lock on the file ``.owner``, which the operating system gives back however a process ends. On shared
storage without locks between machines, and where the file system has no locks at all, the file tells: the owner
renews it every few seconds, and who comes upon the record of another machine watches whether it moves. So a crash
leaves nothing that a person has to remove.
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
# Where a process tells one that it starts the descriptor of an ownership that they share.
INHERITED = "TRACEGRAD_OWNER"
BEAT = 5.0  # seconds between two renewals
_BEATS = 6  # without a renewal until an owner on another machine counts as gone
_PATIENCE = 1.0  # seconds to wait for a lock that another process takes only to look whether it is free
_BLOCK = 4096  # bytes of the file, written at once
_LONGEST = 500  # characters of a command


@dataclass(frozen=True)
class Owner:
    """Who owns a directory.

    Attributes:
        kind: what the owner is, such as "training".
        command: its command line.
        host: name of its machine.
        machine: the running kernel, see `machine_id`.
        started: when it took the directory (UTC, ISO 8601).
        launch: the same for all ranks of a distributed run; "" where nothing tells.
        token: the same for all processes that share the ownership, and for no other.
        processes: number and start time of each of them, the first owner first.
        every: seconds between two renewals.
        beat: another one after each renewal.
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
        """Whether it is or was a process of this machine."""
        return self.machine == machine_id()

    @property
    def pids(self) -> list[int]:
        """Those of its processes that run; none if it is on another machine or in another container."""
        if not self.here or self.host != socket.gethostname():
            return []
        return [pid for pid, started in self.processes if start_time(pid) == started]

    def __str__(self) -> str:
        since = self.started.replace("T", " ").replace("+00:00", " UTC")
        command = shorten(self.command, 160, placeholder=" ...")
        return f"{self.kind}, process {self.processes[-1][0]} on {self.host}, since {since} ({command})"


def read_owner(directory: str | Path) -> Owner | None:
    """The owner that the directory's file names, whether or not it still runs; None where it names none."""
    for _ in range(5):
        try:
            text = (Path(directory) / FILE).read_text(encoding="utf-8")
        except OSError:
            return None
        if not text:  # it was given back
            return None
        try:
            values = json.loads(text)
            processes = tuple((int(pid), str(started)) for pid, started in values["processes"])
            given = {entry.name: values[entry.name] for entry in fields(Owner)}
            return Owner(**{**given, "processes": processes}) if processes else None
        except (ValueError, KeyError, TypeError):
            time.sleep(0.02)  # it may just be written
    return None


class Watch:
    """Tells who owns a directory; of an owner on another machine, only after some looks.

    Attributes:
        undecided: whether it takes more looks to tell if the owner lives.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.undecided = False
        self._beat: tuple[str, int] | None = None
        self._since = 0.0
        self._moved = False

    def owner(self) -> Owner | None:
        """The owner; one on another machine counts until its record has stood still for long enough."""
        owner, self.undecided = read_owner(self.directory), False
        if owner is None or _is_held(self.directory, owner):
            return owner
        if owner.here:
            return None  # its end has given back the lock
        beat, now = (owner.token, owner.beat), time.monotonic()
        if beat != self._beat:
            self._moved = self._beat is not None
            self._beat, self._since = beat, now
        elif now - self._since >= owner.every * _BEATS:
            return None
        self.undecided = not self._moved
        return owner


class Ownership:
    """A directory that belongs to this process until `release`, or until the process ends.

    A thread renews the record. Should another machine have taken the directory over, because this process or its
    storage stood still for long, the process ends at once, before it writes into what is no longer its own.
    Children of a fork have no part in it.

    Args:
        directory: of the record.
        descriptor: of its lock.
        owner: to write into the record.
        made: folders that were made for it, the innermost first, and are removed again if they stay empty.
        inherited: whether another process holds the lock, too, and gives it back.
    """

    def __init__(
        self,
        directory: Path,
        descriptor: int,
        owner: Owner,
        *,
        made: Sequence[Path],
        inherited: bool = False,
    ) -> None:
        self.directory, self.descriptor, self.owner = directory, descriptor, owner
        self._made = made
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
        """Give the directory back; nothing is left in it."""
        if self._ended.is_set() or self._pid != os.getpid():
            return
        self._ended.set()
        self._thread.join()
        _descriptors.discard(self.descriptor)
        with suppress(OSError):
            if not self._inherited:
                path = self.directory / FILE
                # In a directory that was moved, this alone says that it is free.
                os.ftruncate(self.descriptor, 0)
                if os.path.samestat(os.stat(path), os.fstat(self.descriptor)):
                    path.unlink()
                    for folder in self._made:
                        folder.rmdir()
        os.close(self.descriptor)

    @property
    def shared(self) -> dict[str, str]:
        """Environment for a process to which `descriptor` is passed on, and which is to be an owner, too."""
        return {INHERITED: str(self.descriptor)}

    def _renew(self) -> None:
        mine = self.owner.processes[-1]
        while not self._ended.wait(self.owner.every):
            owner = self._recorded()
            if owner is not None and owner.token != self.owner.token:
                print(
                    f"error: {self.directory} was taken over by {owner}; this process ends", file=sys.stderr
                )
                sys.stderr.flush()
                os._exit(1)
            if owner is None or mine not in owner.processes:  # it was damaged, or two processes wrote at once
                owner = self.owner
            with suppress(OSError):  # a disk may be full for a moment
                _write(self.descriptor, replace(owner, beat=time.time_ns()))

    def _recorded(self) -> Owner | None:
        """What stands in the record, read through its path: network storage then asks its server."""
        with suppress(OSError):
            if os.path.samestat(os.stat(self.directory), self._place):  # it was not moved away
                return read_owner(self.directory)
        return None


def own(
    directory: str | Path,
    kind: str,
    *,
    command: str = "",
    launch: str = "",
    every: float = BEAT,
    say: Callable[[str], None] = print,
) -> Ownership:
    """Make this process the owner of a directory, which is made if missing.

    Args:
        directory: to own.
        kind: what this process is, such as "training".
        command: what others are told that it runs; "": its command line.
        launch: the same for all ranks of a distributed run.
        every: seconds between two renewals of the record.
        say: is told of a record of another machine that is waited for and taken over.

    Raises:
        InUseError: it has an owner; nothing in it was touched.
        TraceGradError: the file system knows no locks, or the directory cannot be made or written.
    """
    directory = Path(directory)
    made = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    try:
        descriptor, locked = _lock(directory, say)
        if descriptor is None:
            raise _in_use(directory, read_owner(directory))
        return _owned(directory, descriptor, kind, command, launch, every, say, made, locked=locked)
    except OSError as error:
        raise TraceGradError(
            f"{directory}: cannot be written ({error.strerror or error}); choose another directory"
        ) from error


def _lock(directory: Path, say: Callable[[str], None]) -> tuple[int | None, bool]:
    """The descriptor of the record, None if another process owns it, and whether it is locked."""
    path = directory / FILE
    try:
        for _ in range(10):
            # The start of another process may fail, which then removes the folder again.
            with suppress(FileNotFoundError):
                return take_lock(path, patience=_PATIENCE), True
        return take_lock(path, patience=_PATIENCE), True
    except NoLocks as error:
        say(f"warning: {error}; until then the record of the owner, renewed every few seconds, has to do")
        owner = read_owner(directory)
        if owner is not None and owner.pids:
            return None, False
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666), False


def _is_held(directory: Path, owner: Owner) -> bool:
    """Whether the owner holds its lock, or runs on this machine where there are no locks."""
    try:
        return is_locked(directory / FILE)
    except NoLocks:
        return bool(owner.pids)


def _owned(
    directory: Path,
    descriptor: int,
    kind: str,
    command: str,
    launch: str,
    every: float,
    say: Callable[[str], None],
    made: Sequence[Path],
    *,
    locked: bool,
) -> Ownership:
    try:
        waited = _await_end(directory, say)
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
        if waited or not locked:  # so may have another process
            time.sleep(every / 2)
            now = read_owner(directory)
            if now is not None and now.token != me.token:
                raise _in_use(directory, now)
        return Ownership(directory, descriptor, me, made=made)
    except BaseException:
        os.close(descriptor)
        raise


def inherit(directory: str | Path) -> Ownership | None:
    """Share the ownership of the process that has started this one, see `Ownership.shared`; None if it has none."""
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
    return Ownership(directory, descriptor, shared, made=(), inherited=True)


def _await_end(directory: Path, say: Callable[[str], None]) -> bool:
    """Whether the record names another machine's process, which is gone; an error if it lives."""
    first = read_owner(directory)
    if first is None or first.here:
        return False
    patience = first.every * _BEATS
    say(f"{directory} was not given back by {first}: watching for {patience:.0f} s whether it lives")
    until = time.monotonic() + patience
    while time.monotonic() < until:
        time.sleep(first.every / 4)
        now = read_owner(directory)
        if now is not None and (now.token, now.beat) != (first.token, first.beat):
            raise _in_use(directory, now)
    say(f"{directory}: {first.host} has not been heard since; the directory is taken over")
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
    """A lock that a worker keeps open would outlive its owner."""
    for descriptor in _descriptors:
        with suppress(OSError):
            os.close(descriptor)
    _descriptors.clear()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_close_in_child)
