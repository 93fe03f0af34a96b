"""Shows the progress of a download: a bar on a terminal, lines elsewhere."""

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

SECONDS_A_LINE = 30


def readable_size(size: int | float) -> str:
    """A number of bytes in decimal units, as archive records state them."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"


class FetchProgress:
    """Prints lines, and shows how many bytes of a file are done; a context manager."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console(soft_wrap=True, highlight=False, markup=False)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._printed = time.monotonic()

    def report(self, line: str) -> None:
        """Print a line."""
        self.console.print(line)

    def step(self, what: str) -> Callable[[int, int | None], None]:
        """Begin a new bar and return its update function of the bytes done and of all bytes (None: not known)."""
        for old in self._bar.task_ids:
            self._bar.remove_task(old)
        task = self._bar.add_task(what, total=None)

        def on_progress(done: int, total: int | None) -> None:
            self._bar.update(task, completed=done, total=total)
            if not self.console.is_terminal and time.monotonic() > self._printed + SECONDS_A_LINE:
                self._printed = time.monotonic()
                of = "" if total is None else f" of {readable_size(total)}"
                self.console.print(f"{what}: {readable_size(done)}{of}")

        return on_progress

    def __enter__(self) -> "FetchProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
