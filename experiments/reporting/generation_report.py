"""What the two generating commands show and record: a progress bar, and their command line."""

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
    """Units a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.2g}/s" if task.speed else "")


def progress_bar(console: Console, unit: str) -> Progress:
    """A bar that counts ``unit``, such as frames."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        _RateColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        # One label of a large molecule takes longer than the half minute that Rich averages over.
        speed_estimate_period=600,
    )


def public_command(arguments: list[str]) -> str:
    """The command line for the provenance, with folders outside of the working folder left away."""
    shortened = [re.sub(r"(^|[=,\[\s'\"])/[^,\]'\"]*/", r"\1", argument) for argument in arguments]
    return shlex.join(["python", "-m", "experiments.generate", *shortened])
