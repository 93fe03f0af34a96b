"""Progress of a sweep: bars on a terminal, a line for each ended run elsewhere."""

import re
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from experiments.sweeps.points import SweepPoint
from experiments.sweeps.status import FINISHED, Status, read_log

STEP = re.compile(r"^step (\d+)/(\d+)(?:.*?val/h_mae ([\d.e+-]+) meV)?(?:.*?  (\d+) s left)?")


class SweepProgress(Progress):
    """A context in which the runs of a sweep are shown."""

    def __init__(self) -> None:
        console = Console()
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._bars: dict[str, TaskID] = {}

    def show_start(self, point: SweepPoint) -> None:
        """Add a bar for a point that was started, or ran already."""
        self._bars[point.name] = self.add_task(point.name, total=None, state="starting")

    def show_step(self, point: SweepPoint) -> None:
        """Show how far a running point is."""
        if self.console.is_terminal:
            step, last, state = progress_of(point.directory)
            self.update(self._bars[point.name], completed=step, total=last, state=state)

    def show_end(self, point: SweepPoint, status: Status) -> None:
        """Show how a point has ended."""
        step, last, state = progress_of(point.directory)
        if status.status != FINISHED:
            state = f"{status.status}: {status.error}"
        self.update(self._bars[point.name], completed=step, total=last, state=state)
        self.stop_task(self._bars[point.name])
        if not self.console.is_terminal:
            print(f"{point.name}: {state}", flush=True)


def progress_of(directory: Path) -> tuple[int, int | None, str]:
    """Steps done and to do, and the last validation error and the time left, from the log of a run."""
    for line in reversed(read_log(directory).splitlines()):
        match = STEP.match(line)
        if match:
            step, last = int(match[1]), int(match[2])
            state = f"val {match[3]} meV" if match[3] else ""
            return step, last, f"{state}, {match[4]} s left" if match[4] and step < last else state
    return 0, None, "starting"
