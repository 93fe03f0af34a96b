"""Prints grids as tables in the terminal."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text as Styled

from tracegrad.reports.grid import FAINT, MARK, SECTION, Grid, GridCell, GridHead, table_grids
from tracegrad.reports.table import ResultsTable

# Characters; wider than any table, so that rich neither wraps nor cuts its lines.
_UNLIMITED = 10_000
# Characters of a line where the output is narrower or no terminal.
_LEAST_WIDTH = 100
_GAP = 2  # characters between columns


def print_tables(tables: Sequence[ResultsTable], console: Console | None = None) -> None:
    """Print every table with its heading and notes."""
    print_grids([grid for table in tables for grid in table_grids(table)], console)


def print_grids(grids: Sequence[Grid], console: Console | None = None) -> None:
    """Print grids one below the other, but for those that only stand in files.

    The columns of a grid that is wider than the terminal continue below, with the labels repeated. No cell is cut off
    or wrapped, because it could not be searched for.
    """
    console = console or Console()
    unlimited = _unlimited(console)
    for grid in grids:
        if not grid.printed:
            continue
        heading = f"{grid.title} ({grid.subtitle})"
        console.print(Styled(_printable(heading, console), style="bold"), soft_wrap=True)
        for part in _parts(grid, max(console.width, _LEAST_WIDTH)):
            unlimited.print(_rich_table(part, console), crop=False)
        for line in grid.captions:
            console.print(Styled(_printable(line.replace(MARK, "*"), console), style="dim"), soft_wrap=True)
        console.print()


def _unlimited(console: Console) -> Console:
    """The same output without a limit on the length of lines."""
    return Console(
        file=console.file,
        width=_UNLIMITED,
        force_terminal=console.is_terminal,
        color_system=console.color_system,  # type: ignore[arg-type]
    )


def _parts(grid: Grid, width: int) -> Iterator[Grid]:
    """The grid in parts of consecutive columns that fit into lines of ``width`` characters."""
    labels = _width([grid.first, *(line.label for line in grid.lines)])
    columns = [
        _width([_head_text(head), *(_cell_text(line.cells[k]) for line in grid.lines if line.cells)])
        for k, head in enumerate(grid.heads)
    ]
    start = 0
    while start < len(columns):
        end, used = start + 1, labels + _GAP + columns[start]
        while end < len(columns) and used + _GAP + columns[end] <= width:
            used += _GAP + columns[end]
            end += 1
        lines = tuple(replace(line, cells=line.cells[start:end]) for line in grid.lines)
        yield replace(grid, heads=grid.heads[start:end], lines=lines)
        start = end


def _width(texts: Sequence[str]) -> int:
    """Characters of the longest line."""
    return max((len(line) for text in texts for line in text.split("\n")), default=0)


def _head_text(head: GridHead) -> str:
    name = f"{head.name} ({head.unit})" if head.unit else head.name
    # The unit goes into a second line of the header to keep lines short.
    return name.replace(" (", "\n(", 1)


def _cell_text(cell: GridCell) -> str:
    return cell.value + ("*" if cell.best else "") + (f"\n{cell.extra}" if cell.extra else "")


def _rich_table(grid: Grid, console: Console) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column(Styled(grid.first), justify="left", no_wrap=True)
    for head in grid.heads:
        table.add_column(Styled(_head_text(head)), justify="right", no_wrap=True)
    for line in grid.lines:
        texts = [Styled(_printable(line.label, console), style="bold" if line.style == SECTION else "")]
        for cell in line.cells:
            style = "bold green" if cell.best else ""
            texts.append(Styled(_printable(_cell_text(cell), console), style=style))
        table.add_row(*texts, style="dim" if line.style == FAINT else "")
    return table


def _printable(text: str, console: Console) -> str:
    """The text in characters that the output can encode (ASCII under LC_ALL=C)."""
    if console.encoding.lower().startswith("utf"):
        return text
    return text.replace("±", "+-").encode(console.encoding, "replace").decode(console.encoding)
