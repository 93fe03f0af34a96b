"""Progress of a sweep: bars on a terminal, a line for each ended run elsewhere."""

import re
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from experiments.sweeps.local import Watcher
from experiments.sweeps.points import Point
from experiments.sweeps.status import FINISHED, LOG, Status

STEP = re.compile(r"^step (\d+)/(\d+)(?:.*?val/h_mae ([\d.e+-]+) meV)?(?:.*?  (\d+) s left)?")
TAIL = 16 * 1024


class SweepProgress(Watcher):
    """A context in which the points of a sweep are shown."""

    def __init__(self) -> None:
        self.console = Console()
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}", markup=False),
            TimeElapsedColumn(),
        )
        self.bars = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "SweepProgress":
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def started(self, point: Point) -> None:
        self.tasks[point.name] = self.bars.add_task(point.name, total=None, state="starting")

    def looked(self, point: Point) -> None:
        if self.console.is_terminal:
            step, last, state = progress_of(point.directory)
            self.bars.update(self.tasks[point.name], completed=step, total=last, state=state)

    def ended(self, point: Point, status: Status) -> None:
        step, last, state = progress_of(point.directory)
        if status.status != FINISHED:
            state = f"{status.status}: {status.error}"
        self.bars.update(self.tasks[point.name], completed=step, total=last, state=state)
        self.bars.stop_task(self.tasks[point.name])
        if not self.console.is_terminal:
            print(f"{point.name}: {state}", flush=True)


def progress_of(directory: Path) -> tuple[int, int | None, str]:
    """Steps done and to do, and the last validation error and the time left, from the log of a run."""
    for line in reversed(read_tail(directory / LOG).splitlines()):
        match = STEP.match(line)
        if match:
            step, last = int(match[1]), int(match[2])
            state = f"val {match[3]} meV" if match[3] else ""
            return step, last, f"{state}, {match[4]} s left" if match[4] and step < last else state
    return 0, None, "starting"


def read_tail(path: Path) -> str:
    """The end of a log; nothing where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL))
            return file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""
