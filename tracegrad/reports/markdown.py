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


def markdown_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], first_number: int | None = None
) -> str:
    """A table of texts; the columns from ``first_number`` on are numbers, which stand at the right."""
    left = len(head) if first_number is None else first_number
    lines = [head, ["---"] * left + ["---:"] * (len(head) - left), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _grid(grid: Grid) -> str:
    names = [f"{head.name} ({head.unit})" if head.unit else head.name for head in grid.heads]
    table = markdown_table(
        [grid.first, *names], [_cells(line, len(names)) for line in grid.lines], first_number=1
    )
    captions = "\n".join(f"- {caption.replace(MARK, 'bold')}" for caption in grid.captions)
    return f"## {grid.title}\n\n{grid.subtitle}\n\n{table}\n\n{captions}\n"


def _cells(line: GridLine, width: int) -> list[str]:
    if line.style == SECTION:
        return [f"**{line.label}**", *[""] * width]
    return [line.label.replace("  ", "&nbsp;&nbsp;"), *(_cell(cell) for cell in line.cells)]


def _cell(cell: GridCell) -> str:
    value = f"**{cell.value}**" if cell.best else cell.value
    return f"{value} {cell.extra}".rstrip()
