"""Progress of the building of a cache for people: a bar on a terminal, lines elsewhere."""

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


class CacheProgress:
    """Gives the building of a cache its ``report`` and ``on_progress``; a context manager.

    Args:
        console: where to show it; None: standard output.
        doing, things: what a bar says, as in "reading 3/5 structures".
    """

    def __init__(self, console: Console | None = None, *, doing: str = "reading", things: str = "structures"):
        self.console = console or Console(soft_wrap=True, highlight=False, markup=False)
        self.things = things
        self._bar = Progress(
            TextColumn(doing),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(things),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None)
        self._printed = time.monotonic()

    def report(self, line: str) -> None:
        """Print a line."""
        self.console.print(line)

    def on_progress(self, done: int, total: int) -> None:
        """Move the bar, or print a line now and then."""
        self._bar.update(self._task, completed=done, total=total)
        if not self.console.is_terminal and time.monotonic() > self._printed + SECONDS_A_LINE:
            self._printed = time.monotonic()
            self.console.print(f"cache: {done}/{total} {self.things}")

    def __enter__(self) -> "CacheProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
