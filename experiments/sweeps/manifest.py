"""The record of a sweep: its definition and the state of every point, in ``manifest.json`` of its directory."""

import json
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from experiments.sweeps.points import Point
from experiments.sweeps.status import (
    FAILED,
    FINISHED,
    KIND,
    RUNNING,
    STOPPED,
    WAITING,
    Status,
    read_status,
)
from experiments.training.resuming import is_outgrown
from tracegrad.errors import ConfigError
from tracegrad.system.ownership import Owner, OwnerWatch
from tracegrad.system.whole_files import replacing

FILE = "manifest.json"
FORMAT = 1


class Manifest:
    """Points and their states; written anew, whole or not at all, whenever a state changes.

    Points of earlier commands on the same directory stay in the file. What runs now is asked of the owners of the
    directories and of SLURM's queue, never of the file, which a crash may have left behind.

    Args:
        runs: directory of the sweep.
        points: of this command.
        about: name, command and definition of the sweep.
        queue: the SLURM jobs that wait or run.
    """

    def __init__(
        self, runs: Path, points: Sequence[Point], about: dict[str, Any], queue: Callable[[], set[str]]
    ) -> None:
        self.runs, self.points, self.about, self._queue = runs, list(points), about, queue
        self._entries = _read(runs / FILE)
        self._watches = {point.name: OwnerWatch(point.directory) for point in points}
        self.states: dict[str, Status] = {}
        self.look()

    def look(self) -> list[Point]:
        """Bring every state up to date; the points whose state changed."""
        queued = self._queue() if any(self._may_be_queued(point) for point in self.points) else set()
        changed = []
        for point in self.points:
            state = self._state(point, queued)
            if state != self.states.get(point.name):
                self.states[point.name] = state
                changed.append(point)
        return changed

    def settle(self) -> None:
        """Look until it is known which points run on other machines, if their directories say that some do."""
        names = [point.name for point in self.points if self._watches[point.name].undecided]
        if names:
            print(f"watching whether these still run on other machines: {', '.join(names)}", flush=True)
        while any(watch.undecided for watch in self._watches.values()):
            time.sleep(0.2)
            self.look()

    def owner(self, point: Point) -> Owner | None:
        """Who owns the directory of a point at present."""
        return self._watches[point.name].owner()

    def pids(self, point: Point) -> list[int]:
        """Processes of this machine that an earlier command has started for a point, the one around it first."""
        owner = self.owner(point)
        return owner.pids if owner is not None and owner.kind == KIND else []

    def started(self, point: Point, pid: int, device: str) -> None:
        """Record that a point was started on this machine."""
        before, now = self.states[point.name], datetime.now(UTC).isoformat(timespec="seconds")
        self.states[point.name] = Status(
            RUNNING, before.attempts, device=device, host=socket.gethostname(), pid=pid, started=now
        )
        self.save()

    def update(self, point: Point) -> Status:
        """The state of one point of this machine that has ended, or that another process runs."""
        state = self._state(point, set())
        if state != self.states[point.name]:
            self.states[point.name] = state
            self.save()
        return state

    def submitted(self, jobs: dict[str, str]) -> None:
        """Record the SLURM jobs of points, by name."""
        for name, job in jobs.items():
            self.states[name] = replace(self.states[name], status=WAITING, error="", job=job)
        self.save()

    def with_state(self, *states: str) -> list[Point]:
        """Points in one of some states, in their order."""
        return [point for point in self.points if self.states[point.name].status in states]

    def save(self) -> None:
        """Write the file."""
        for point in self.points:
            self._entries[point.name] = {
                "name": point.name,
                "overrides": list(point.overrides),
                "directory": os.path.relpath(point.directory, self.runs),
                **asdict(self.states[point.name]),
            }
        content = {"format": FORMAT, **self.about, "points": list(self._entries.values())}
        with replacing(self.runs / FILE) as draft:
            draft.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def _job(self, point: Point) -> str:
        state = self.states.get(point.name)
        return state.job if state else self._entries.get(point.name, {}).get("job", "")

    def _may_be_queued(self, point: Point) -> bool:
        state = self.states.get(point.name)
        known = state.status if state else self._entries.get(point.name, {}).get("status")
        done = _has_result(point) and not is_outgrown(point.directory, point.length)
        return bool(self._job(point)) and known not in (FAILED, FINISHED) and not done

    def _state(self, point: Point, queued: set[str]) -> Status:
        found, job = read_status(point.directory), self._job(point)
        finished = found.status == FINISHED if point.result is None else _has_result(point)
        if finished and not is_outgrown(point.directory, point.length):
            return replace(found, status=FINISHED, error="")
        if job and job in queued:
            running = found.status == RUNNING and found.job == job
            return found if running else replace(found, status=WAITING, error="", job=job)
        owner = self.owner(point)
        if owner is not None and owner.kind != KIND:  # started by hand
            pid, started = owner.processes[0][0], owner.started
            by_hand = Status(RUNNING, found.attempts, host=owner.host, pid=pid, started=started)
            return replace(by_hand, error=str(owner))
        if owner is not None:
            return replace(found, status=RUNNING, error="" if owner.here else str(owner))
        if job and found.job != job:
            logs = self.runs / "slurm"
            error = f"job {job} left the queue without a start; its logs are in {logs}"
            return replace(found, status=FAILED, error=error, job=job)
        if found.status == FINISHED:  # its result was removed, or it is to be longer
            return replace(found, status=WAITING, job="")
        if found.status == RUNNING:
            error = "ended without a word: killed, or its machine went down"
            return replace(found, status=STOPPED, error=error)
        return found


def _has_result(point: Point) -> bool:
    return point.result is not None and (point.directory / point.result).exists()


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """Points of the file by name; none where there is no file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']}, {FORMAT} is needed")
        known = {"name", "overrides", "directory", *(entry.name for entry in fields(Status))}
        entries = {entry["name"]: entry for entry in content["points"]}
        if any(entry.keys() != known for entry in entries.values()):
            raise ValueError("its points have other fields")
        return entries
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path}: not a manifest of a sweep ({error}); remove it, the runs keep their own states"
        ) from error
