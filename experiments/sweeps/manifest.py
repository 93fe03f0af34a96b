"""The state of a sweep, asked of its run directories and of SLURM, and its record ``manifest.json``."""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.sweeps.points import SweepPoint
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
from tracegrad.system.text_files import write_json

FILE = "manifest.json"
FORMAT = 1


class SweepState:
    """The points of a sweep and the state of each.

    States follow from the status files and owners of the run directories and from SLURM's queue. ``manifest.json``
    lists the points, also those of earlier commands, for people and reports; of its content only the SLURM jobs are
    read again, because a job that waits has left nothing in the directory of its point.

    Args:
        runs: directory of the sweep.
        points: of this command.
        about: name, command and definition of the sweep, for the manifest.
        queue: returns the SLURM jobs that wait or run.

    Attributes:
        states: by name of the point.
    """

    def __init__(
        self, runs: Path, points: Sequence[SweepPoint], about: dict[str, Any], queue: Callable[[], set[str]]
    ) -> None:
        self.runs, self.points, self._about, self._queue = runs, list(points), about, queue
        self._entries = _read(runs / FILE)
        self._jobs = {name: entry["job"] for name, entry in self._entries.items() if entry.get("job")}
        self._watches = {point.name: OwnerWatch(point.directory) for point in points}
        self.states: dict[str, Status] = {}
        self.look()

    def look(self) -> list[SweepPoint]:
        """Bring every state up to date, and return the points whose state changed."""
        before = self.states
        written = {point.name: read_status(point.directory) for point in self.points}
        queued: set[str] = set()
        if any(self._may_be_queued(point, written[point.name]) for point in self.points):
            queued = self._queue()
            # Read again: a job that has left the queue since the first reading may have started before.
            written = {point.name: read_status(point.directory) for point in self.points}
        self.states = {point.name: self._state(point, written[point.name], queued) for point in self.points}
        return [point for point in self.points if self.states[point.name] != before.get(point.name)]

    def update(self) -> list[SweepPoint]:
        """The same as `look`, and the changed states are written into the manifest."""
        changed = self.look()
        if changed:
            self.save()
        return changed

    def settle(self) -> None:
        """Look until it is known which points run on other machines, if their directories say that some do."""
        names = [point.name for point in self.points if self._watches[point.name].undecided]
        if names:
            print(f"watching whether these still run on other machines: {', '.join(names)}", flush=True)
        while any(watch.undecided for watch in self._watches.values()):
            time.sleep(0.2)
            self.look()

    def owner(self, point: SweepPoint) -> Owner | None:
        """The present owner of the directory of a point."""
        return self._watches[point.name].owner()

    def pids(self, point: SweepPoint) -> list[int]:
        """Processes of this machine in which a sweep runs a point, the attempt around the training first."""
        owner = self.owner(point)
        return owner.pids if owner is not None and owner.kind == KIND else []

    def started_here(self, point: SweepPoint) -> None:
        """Record that a point was started on this machine; a SLURM job of it counts no more."""
        self._jobs.pop(point.name, None)
        self.states[point.name] = replace(self.states[point.name], status=RUNNING, error="", job="")
        self.save()

    def submitted(self, jobs: dict[str, str]) -> None:
        """Record the SLURM jobs of points, by name."""
        self._jobs |= jobs
        for name, job in jobs.items():
            self.states[name] = replace(self.states[name], status=WAITING, error="", job=job)
        self.save()

    def with_state(self, *states: str) -> list[SweepPoint]:
        """Points in one of some states, in their order."""
        return [point for point in self.points if self.states[point.name].status in states]

    def save(self) -> None:
        """Write the manifest."""
        for point in self.points:
            state = self.states[point.name]
            self._entries[point.name] = {
                "name": point.name,
                "overrides": list(point.overrides),
                "directory": os.path.relpath(point.directory, self.runs),
                "status": state.status,
                "error": state.error,
                "job": self._jobs.get(point.name, ""),
            }
        content = {"format": FORMAT, **self._about, "points": list(self._entries.values())}
        write_json(self.runs / FILE, content)

    def _may_be_queued(self, point: SweepPoint, written: Status) -> bool:
        job = self._jobs.get(point.name)
        has_failed = written.job == job and written.status == FAILED
        return job is not None and not has_failed and not _is_finished(point, written)

    def _state(self, point: SweepPoint, written: Status, queued: set[str]) -> Status:
        job = self._jobs.get(point.name, "")
        if _is_finished(point, written):
            return replace(written, status=FINISHED, error="")
        if job in queued:
            runs = written.status == RUNNING and written.job == job
            return written if runs else replace(written, status=WAITING, error="", job=job)
        owner = self.owner(point)
        if owner is not None and owner.kind != KIND:  # started by hand
            return Status(RUNNING, written.attempts, str(owner))
        if owner is not None:
            return replace(written, status=RUNNING, error="" if owner.here else str(owner))
        if job and written.job != job:
            error = f"job {job} left the queue without a start; its logs are in {self.runs / 'slurm'}"
            return replace(written, status=FAILED, error=error, job=job)
        if written.status == FINISHED:  # its result was removed, or it is to be longer
            return replace(written, status=WAITING, job="")
        if written.status == RUNNING:
            error = "ended without a word: killed, or its machine went down"
            return replace(written, status=STOPPED, error=error)
        return written


def _is_finished(point: SweepPoint, written: Status) -> bool:
    """Whether the run has a result, and is not to be longer than it was."""
    has_result = (point.directory / point.result).exists() if point.result else written.status == FINISHED
    return has_result and not is_outgrown(point.directory, point.length)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """Points of a manifest by name; none where there is no file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']}, {FORMAT} is needed")
        return {entry["name"]: dict(entry) for entry in content["points"]}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: not a manifest of a sweep ({error}); remove it, the runs keep their own states"
        ) from error
