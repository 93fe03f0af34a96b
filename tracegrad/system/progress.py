"""Progress of long work: a bar on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

Display = TypeVar("Display", bound="ProgressDisplay")
SECONDS_BETWEEN_LINES = 30
BYTES = "bytes"


class ProgressDisplay:
    """Context manager that shows how much is done, and prints lines above the bar.

    Args:
        unit: what is counted, such as "structures"; "bytes" are shown in MB.
        seconds: length of the recent period from which the bar estimates the remaining time; longer than one item
            takes.
        shown: False on all ranks but one; `report` prints in any case.
        console: where to print; None: standard output.
    """

    def __init__(
        self, unit: str, *, seconds: float = 30.0, shown: bool = True, console: Console | None = None
    ):
        self.console = console or Console(soft_wrap=True, highlight=False, markup=False)
        self.unit, self.shown = unit, shown
        counts: list[ProgressColumn] = (
            [DownloadColumn(), TransferSpeedColumn()]
            if unit == BYTES
            else [MofNCompleteColumn(), TextColumn(unit)]
        )
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            *counts,
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not (shown and self.console.is_terminal),
            speed_estimate_period=seconds,
        )
        self._printed = time.monotonic()

    def report(self, line: str, style: str | None = None) -> None:
        """Print a line."""
        self.console.print(line, style=style)

    def bar(self, what: str) -> Callable[..., None]:
        """Begin a bar, which takes the place of the former one.

        Args:
            what: name of the work, such as "reading".

        Returns:
            A function of the numbers done and in all (None: not known), and optionally a new name, which moves the
            bar. Without a terminal it prints a line every `SECONDS_BETWEEN_LINES`.
        """
        for former in self._bars.task_ids:
            self._bars.remove_task(former)
        task = self._bars.add_task(what, total=None)

        def on_progress(done: int, total: int | None, name: str = what) -> None:
            self._bars.update(task, completed=done, total=total, description=name)
            due = time.monotonic() > self._printed + SECONDS_BETWEEN_LINES
            if self.shown and not self.console.is_terminal and due:
                self._printed = time.monotonic()
                self.console.print(f"{name}: {self._count(done, total)}")

        return on_progress

    def _count(self, done: int, total: int | None) -> str:
        if self.unit == BYTES:
            return readable_size(done) + ("" if total is None else f" of {readable_size(total)}")
        return f"{done}/{total} {self.unit}"

    def __enter__(self: Display) -> Display:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()


def readable_size(size: int | float) -> str:
    """A number of bytes in decimal units, as archive records state them."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"
