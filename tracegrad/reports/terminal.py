"""Prints grids as tables in the terminal."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text as Styled

from tracegrad.reports.grid import FAINT, MARK, SECTION, Grid, table_grids
from tracegrad.reports.table import ResultsTable

# Characters; wider than any table, so that rich neither wraps nor cuts its lines.
_UNLIMITED = 10_000


def print_tables(tables: Sequence[ResultsTable], console: Console | None = None) -> None:
    """Print every table with its heading and notes."""
    print_grids([grid for table in tables for grid in table_grids(table)], console)


def print_grids(grids: Sequence[Grid], console: Console | None = None) -> None:
    """Print grids one below the other.

    Lines are as long as their content, even if the output is narrower or no terminal, because a label that is cut
    off or wrapped cannot be searched for.
    """
    console = console or Console()
    wide = _unlimited(console)
    for grid in grids:
        heading = f"{grid.title} ({grid.subtitle})"
        console.print(Styled(_printable(heading, console), style="bold"), soft_wrap=True)
        wide.print(_rich_table(grid, console), crop=False)
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


def _rich_table(grid: Grid, console: Console) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column(Styled(grid.first), justify="left", no_wrap=True)
    for head in grid.heads:
        name = f"{head.name} ({head.unit})" if head.unit else head.name
        # The unit goes into a second line of the header to keep lines short.
        table.add_column(Styled(name.replace(" (", "\n(", 1)), justify="right", no_wrap=True)
    for line in grid.lines:
        texts = [Styled(_printable(line.label, console), style="bold" if line.style == SECTION else "")]
        for cell in line.cells:
            text = cell.value + ("*" if cell.best else "") + (f"\n{cell.extra}" if cell.extra else "")
            texts.append(Styled(_printable(text, console), style="bold green" if cell.best else ""))
        table.add_row(*texts, style="dim" if line.style == FAINT else "")
    return table


def _printable(text: str, console: Console) -> str:
    """The text in characters that the output can encode (ASCII under LC_ALL=C)."""
    if console.encoding.lower().startswith("utf"):
        return text
    return text.replace("±", "+-").encode(console.encoding, "replace").decode(console.encoding)
