"""Grids as Markdown tables."""

from collections.abc import Sequence

from tracegrad.reports.absent import TITLE
from tracegrad.reports.grid import MARK, SECTION, Grid, GridCell, GridLine


def to_markdown(grids: Sequence[Grid], absent: Sequence[str] = ()) -> str:
    """For each grid a heading, a table (GitHub's Markdown) and its notes; then the list of what the report lacks."""
    texts = [_grid(grid) for grid in grids]
    if absent:
        texts.append(f"## {TITLE}\n\n" + "".join(f"- {line}\n" for line in absent))
    return "\n".join(texts)


def _grid(grid: Grid) -> str:
    names = [f"{head.name} ({head.unit})" if head.unit else head.name for head in grid.heads]
    lines = [_row([grid.first, *names]), "| --- " + "| ---: " * len(names) + "|"]
    lines += [_line(line, len(names)) for line in grid.lines]
    captions = "\n".join(f"- {caption.replace(MARK, 'bold')}" for caption in grid.captions)
    return f"## {grid.title}\n\n{grid.subtitle}\n\n" + "\n".join(lines) + f"\n\n{captions}\n"


def _line(line: GridLine, width: int) -> str:
    if line.style == SECTION:
        return _row([f"**{line.label}**", *[""] * width])
    return _row([line.label.replace("  ", "&nbsp;&nbsp;"), *(_cell(cell) for cell in line.cells)])


def _cell(cell: GridCell) -> str:
    value = f"**{cell.value}**" if cell.best else cell.value
    return f"{value} {cell.extra}".rstrip()


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
