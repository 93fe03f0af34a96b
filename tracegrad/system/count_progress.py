"""Progress display for countable work: a bar on a terminal, occasional lines elsewhere."""

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

SECONDS_BETWEEN_LINES = 30


class CountProgress:
    """Context manager: ``on_progress`` takes the numbers of items done and of all, ``report`` prints a line.

    Args:
        doing, things: verb and noun of the bar, as in "reading 3/5 structures".
        about: beginning of a line, as in "cache: 3/5 structures".
        seconds: length of the recent period from which the bar estimates the remaining time; longer than any item
            takes.
        shown: False on all ranks but one; ``report`` prints in any case.
        console: where to print; None: standard output.
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
        """Move the bar; without a terminal, print a line every `SECONDS_BETWEEN_LINES`."""
        self._bar.update(self._task, completed=done, total=total)
        due = time.monotonic() > self._printed + SECONDS_BETWEEN_LINES
        if self.shown and not self.console.is_terminal and due:
            self._printed = time.monotonic()
            self.console.print(f"{self.about}: {done}/{total} {self.things}")

    def __enter__(self) -> "CountProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
