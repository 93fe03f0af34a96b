"""Generates reference data in the schema of the released QH9 files, in parallel, and continues interrupted runs.

One process writes. It collects frames in `<output>.partial`, from which it writes the database at the end.
"""

import signal
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracegrad.data.qh9.database import QH9Database
from tracegrad.errors import DataError, GenerationError
from tracegrad.physics.molecules.dft import ScfNotConverged, fock_label
from tracegrad.physics.molecules.dynamics import LabelledFrame, first_frame, next_frame
from tracegrad.physics.molecules.generation_settings import GenerationSettings, provenance, resume_key
from tracegrad.physics.molecules.geometries import Geometry, disturbed
from tracegrad.physics.molecules.partial import PartialFile
from tracegrad.physics.molecules.release import release_row, write_database, write_provenance
from tracegrad.system.parallel import work_through
from tracegrad.system.signals import stop_signals
from tracegrad.system.whole_files import sync
from tracegrad.system.workers import TaskFailure, WorkerDied, WorkerPool


@dataclass(frozen=True)
class GenerationSummary:
    """The written database: file, rows, items (geometries or trajectories), and names of those that were left out."""

    output: Path
    rows: int
    items: int
    left_out: list[str]


def generate(
    geometries: Sequence[Geometry],
    settings: GenerationSettings,
    output: str | Path,
    *,
    processes: int = 1,
    overwrite: bool = False,
    strict: bool = False,
    command: str = "",
    report: Callable[[str], None] = print,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> GenerationSummary:
    """Compute labels of all geometries (stable) or of trajectories that start there (dynamic) and write `output`.

    Continues `<output>.partial` if it exists. Starts processes by spawning: a script that calls this needs the
    guard `if __name__ == "__main__"`.

    Args:
        geometries: molecules, angstrom.
        settings: of the SCF, and of the disturbed copies or trajectories.
        output: database file to write.
        processes: number of worker processes, each with one thread.
        overwrite: replace an existing output.
        strict: raise at the first SCF that does not converge, instead of leaving its geometry out.
        command: command line for the provenance.
        report: receives a line about each geometry that is left out.
        on_progress: called at the start and after each frame, with the numbers of frames done and of all frames;
            those of a geometry that is left out count as done.

    Raises:
        GenerationError: the output exists, the partial file has other settings, a worker died, every geometry was
            left out, or the run was stopped by a signal.
    """
    output = Path(output)
    items = _geometries_to_label(geometries, settings)
    _check_output(output, overwrite)
    partial_path = output.with_name(output.name + ".partial")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        partial = PartialFile(partial_path, resume_key(settings, items))
        try:
            _Generation(items, settings, partial, strict, report, on_progress).run(processes)
            return _release(items, settings, partial, output, command)
        finally:
            partial.close()
    except (OSError, sqlite3.Error) as error:
        raise GenerationError(f"{output}: the generation stopped ({error})") from error


def _geometries_to_label(geometries: Sequence[Geometry], settings: GenerationSettings) -> list[Geometry]:
    """The geometry of each row (stable), or the start of each trajectory (dynamic)."""
    if not geometries:
        raise GenerationError("no geometry to compute: give molecules or geometries")
    if settings.flavour == "stable":
        return disturbed(geometries, settings.rattle, settings.copies, settings.seed)
    return [geometry for geometry in geometries for _ in range(settings.copies)]


def _check_output(output: Path, overwrite: bool) -> None:
    if output.is_dir():
        raise GenerationError(f"{output} is a folder; output is the database file to write")
    if output.exists() and not overwrite:
        raise GenerationError(f"{output} exists; choose another output or set overwrite=true")
    if output.exists():
        try:
            QH9Database(output)
        except DataError as error:
            raise GenerationError(
                f"{output} exists and is no database, so it is not overwritten; choose another output"
            ) from error


@dataclass
class _Generation:
    """Distributes frames to the workers and stores their results, until all items are complete."""

    items: list[Geometry]
    settings: GenerationSettings
    partial: PartialFile
    strict: bool
    report: Callable[[str], None]
    on_progress: Callable[[int, int], None]

    def __post_init__(self) -> None:
        self.counts = self.partial.frame_counts()
        self.failed: set[int] = set()
        self.frames_done = sum(self.counts.values())
        self.frames_total = self.settings.frames_per_item * len(self.items)

    def run(self, processes: int) -> None:
        """Compute all missing frames.

        Raises:
            GenerationError: stopped by a signal, a worker died, or an SCF did not converge and ``strict`` is set.
        """
        for item, (frame, reason) in self.partial.failures().items():
            self._leave_out(item, frame, reason)
        queue = deque(i for i in range(len(self.items)) if not self._done(i))
        self.on_progress(self.frames_done, self.frames_total)
        if not queue:
            return
        with stop_signals() as stopped, WorkerPool(min(processes, len(queue))) as pool:
            try:
                for item, result in work_through(pool, queue, self._task, stopped):
                    self._store(item, result)
                    if not self._done(item):
                        queue.appendleft(item)
                    self.on_progress(self.frames_done, self.frames_total)
            except WorkerDied as error:
                # Ctrl-C reaches the workers too; their end is no failure then.
                if not stopped:
                    place = self._place(error.key, self.counts.get(error.key, 0))
                    raise GenerationError(
                        f"the worker process at {place} died ({error}); {self.partial.path.name} is kept: "
                        "run the same command again to go on, with fewer processes if memory was short"
                    ) from error
        if stopped:
            raise GenerationError(
                f"stopped by {signal.Signals(stopped[0]).name} after {self.frames_done} of "
                f"{self.frames_total} frames; {self.partial.path.name} is kept: "
                "run the same command again to go on"
            )

    def _task(self, item: int) -> tuple[Any, ...]:
        geometry = self.items[item]
        if self.settings.flavour == "stable":
            return _label, geometry, self.settings
        state = self.partial.state(item)
        if state is None:
            seed = [self.settings.seed, item]
            return first_frame, geometry.numbers, geometry.positions, self.settings, seed, geometry.name
        return next_frame, geometry.numbers, state, self.settings, geometry.name

    def _store(self, item: int, result: Any) -> None:
        frame = self.counts.get(item, 0)
        if isinstance(result, TaskFailure):
            self._leave_out(item, frame, result.reason)
            self.partial.fail(item, frame, result.reason)
            return
        self.partial.add(item, *result)
        self.counts[item] = frame + 1
        self.frames_done += 1

    def _leave_out(self, item: int, frame: int, reason: str) -> None:
        if self.strict:
            raise GenerationError(f"{self._place(item, frame)}: {reason} (strict=true)")
        self.failed.add(item)
        self.frames_done += self.settings.frames_per_item - self.counts.get(item, 0)
        self.report(f"left out {self._place(item, frame)}: {reason}")

    def _place(self, item: int, frame: int) -> str:
        return _place(self.items, self.settings, item, frame)

    def _done(self, item: int) -> bool:
        return item in self.failed or self.counts.get(item, 0) >= self.settings.frames_per_item


def _place(items: Sequence[Geometry], settings: GenerationSettings, item: int, frame: int) -> str:
    """Name of a geometry in messages and in the provenance, such as `H2O (number 3), frame 17`."""
    name = f"{items[item].name} (number {item})"
    return f"{name}, frame {frame}" if settings.flavour == "dynamic" else name


def _release(
    items: list[Geometry], settings: GenerationSettings, partial: PartialFile, output: Path, command: str
) -> GenerationSummary:
    failures = partial.failures()
    left_out = [
        {"geometry": _place(items, settings, item, frame), "formula": items[item].formula, "reason": reason}
        for item, (frame, reason) in failures.items()
    ]
    kept = [item for item in range(len(items)) if item not in failures]
    if not kept:
        partial.remove()
        names = "; ".join(f"{entry['geometry']}: {entry['reason']}" for entry in left_out[:5])
        raise GenerationError(f"nothing could be written, {len(left_out)} left out: {names}")
    rows = (
        release_row(settings.flavour, number, items[item], frame)
        for number, item in enumerate(kept)
        for frame in partial.rows(item)
    )
    draft = output.with_name(output.name + ".partial-finished")
    try:
        count, digest = write_database(draft, settings.flavour, rows)
        write_provenance(output, provenance(settings, items, kept, left_out, count, digest, command))
        draft.replace(output)
    finally:
        draft.unlink(missing_ok=True)
    sync(output.parent)
    partial.remove()
    return GenerationSummary(output, count, len(kept), [entry["geometry"] for entry in left_out])


def _label(geometry: Geometry, settings: GenerationSettings) -> tuple[LabelledFrame, None]:
    """The only frame of a geometry; it has no state from which it could go on."""
    label = fock_label(
        geometry.numbers,
        geometry.positions,
        settings.xc,
        conv_tol=settings.conv_tol,
        max_cycle=settings.max_cycle,
        name=geometry.name,
    )
    if not label.converged:
        raise ScfNotConverged(label.cycles)
    return LabelledFrame(0, geometry.positions, label.hamiltonian, label.energy), None
