"""Progress bar and recorded command line of the two commands that generate data."""

import re
import shlex

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class _RateColumn(ProgressColumn):
    """Items per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.2g}/s" if task.speed else "")


def progress_bar(console: Console, unit: str) -> Progress:
    """A progress bar that counts items called ``unit``, such as frames."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        _RateColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        # One label of a large molecule takes longer than the half minute over which Rich estimates the speed.
        speed_estimate_period=600,
    )


def public_command(arguments: list[str]) -> str:
    """The command line for the provenance; of absolute paths only the last part remains."""
    shortened = [re.sub(r"(^|[=,\[\s'\"])/[^,\]'\"]*/", r"\1", argument) for argument in arguments]
    return shlex.join(["python", "-m", "experiments.generate", *shortened])
