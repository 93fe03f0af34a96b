"""Table of the timings."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.timing import Timing

WIDTH = 170  # where there is no terminal
COLUMNS = (
    "seconds",
    "lowest",
    "highest",
    "relative time",
    "peak MiB",
    "relative peak",
    "GFLOP",
    "floor s",
    "time / floor",
)


def with_floors(timings: Sequence[Timing], rate: float) -> list[Timing]:
    """Timings with their floors: the time of the matrix products of each way at ``rate`` GFLOP/s.

    ``rate`` is the best one of all measured shapes, because the products of a network could be as fast with another
    layout: a bad layout counts as a loss, not as a limit.
    """
    return [t if not t.gflop else replace(t, floor=t.gflop / rate) for t in timings]


def show(timings: Sequence[Timing], notes: Sequence[str], caption: str) -> None:
    """Print one row for each way; the name of the task is in its first row."""
    table = Table(box=SIMPLE, caption=caption)
    for column in ("task", "way"):
        table.add_column(column)
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for task, ways in groupby(timings, lambda t: t.task):
        table.add_section()
        for i, t in enumerate(ways):
            table.add_row("" if i else task, t.way, *_numbers(t))
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    console.print(table)
    for note in notes:
        console.print(note, markup=False)


def markdown(timings: Sequence[Timing], notes: Sequence[str], caption: str) -> str:
    """The same as a page of Markdown."""
    lines = [f"# Benchmark\n\n{caption}\n"]
    for task, ways in groupby(timings, lambda t: t.task):
        head = ("way", *COLUMNS)
        lines += [f"## {task}\n", f"| {' | '.join(head)} |", "|---|" + "---:|" * len(COLUMNS)]
        lines += [f"| {' | '.join((t.way, *_numbers(t)))} |" for t in ways] + [""]
    return "\n".join([*lines, *(f"- {note}" for note in notes)]) + "\n"


def _numbers(t: Timing) -> list[str]:
    cells = [f"{value:.4g}" for value in (t.median, t.lowest, t.highest)]
    cells.append(f"{t.relative:.3f}")
    for value, form in ((t.peak, ",.1f"), (t.relative_peak, ".3f"), (t.gflop, ",.3g"), (t.floor, ".3g")):
        cells.append("" if value is None else format(value, form))
    cells.append("" if not t.floor else f"{t.median / t.floor:.2f}")
    return cells
