"""Progress of work that is counted, for people: a bar on a terminal, lines elsewhere."""

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


class CountProgress:
    """A context manager with ``report`` for lines and ``on_progress`` for the numbers of things done and of all.

    Args:
        doing, things: what a bar says, as in "reading 3/5 structures".
        about: what a line begins with, as in "cache: 3/5 structures".
        seconds: of the past from which a bar estimates the rest; more than the longest of the things takes.
        shown: False on all ranks but one; lines of ``report`` are printed all the same.
        console: where to show it; None: standard output.
    """

    def __init__(
        self,
        doing: str,
        things: str,
        about: str,
        *,
        seconds: float = 30.0,
        shown: bool = True,
        console: Console | None = None,
    ):
        self.console = console or Console(soft_wrap=True, highlight=False, markup=False)
        self.things, self.about, self.shown = things, about, shown
        self._bar = Progress(
            TextColumn(doing),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(things),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not (shown and self.console.is_terminal),
            speed_estimate_period=seconds,
        )
        self._task = self._bar.add_task("", total=None)
        self._printed = time.monotonic()

    def report(self, line: str) -> None:
        """Print a line."""
        self.console.print(line)

    def on_progress(self, done: int, total: int) -> None:
        """Move the bar, or print a line now and then."""
        self._bar.update(self._task, completed=done, total=total)
        due = time.monotonic() > self._printed + SECONDS_A_LINE
        if self.shown and not self.console.is_terminal and due:
            self._printed = time.monotonic()
            self.console.print(f"{self.about}: {done}/{total} {self.things}")

    def __enter__(self) -> "CountProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
