"""Progress of many SCF runs for people: a bar on a terminal, lines elsewhere."""

import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

SECONDS_A_LINE = 30


class ScfProgress:
    """A context manager whose ``on_progress`` takes the numbers of runs done and of all.

    Args:
        shown: False on all ranks but one.
        console: where to show it; None: standard output.
    """

    def __init__(self, shown: bool = True, console: Console | None = None):
        self.shown = shown
        self.console = console or Console(soft_wrap=True, highlight=False, markup=False)
        self._bar = Progress(
            TextColumn("DFT acceleration"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("SCF runs"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not (shown and self.console.is_terminal),
            speed_estimate_period=600,  # a large molecule takes longer than the half minute that Rich averages over
        )
        self._task = self._bar.add_task("", total=None)
        self._printed = time.monotonic()

    def on_progress(self, done: int, total: int) -> None:
        """Move the bar, or print a line now and then."""
        self._bar.update(self._task, completed=done, total=total)
        due = time.monotonic() > self._printed + SECONDS_A_LINE
        if self.shown and not self.console.is_terminal and due:
            self._printed = time.monotonic()
            self.console.print(f"DFT acceleration: {done}/{total} SCF runs")

    def __enter__(self) -> "ScfProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
