"""Grids as LaTeX tables, with the package booktabs."""

from collections.abc import Sequence

from tracegrad.reports.absent import TITLE
from tracegrad.reports.grid import FAINT, MARK, SECTION, Grid, GridCell, GridHead, GridLine

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # after a line break it would begin an option
    "]": "{]}",
    "±": r"$\pm$",
}
_HEAD = r"""\documentclass[10pt]{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage[a4paper,landscape,margin=1.5cm]{geometry}
\usepackage{booktabs}
\usepackage{graphicx}
\begin{document}
"""
_NARROW = 6  # columns that fit on the page; wider tables are scaled down


def to_latex(grids: Sequence[Grid], absent: Sequence[str] = ()) -> str:
    """A complete document with one table environment for each grid, and the list of what the report lacks."""
    texts = [_table(grid) for grid in grids]
    if absent:
        items = [rf"\item {escaped(line)}" for line in absent]
        texts.append("\n".join([rf"\section*{{{TITLE}}}", r"\begin{itemize}", *items, r"\end{itemize}", ""]))
    return _HEAD + "\n".join(texts) + "\\end{document}\n"


def escaped(text: str) -> str:
    """Text in which no character is a LaTeX command; characters other than ASCII and ± become question marks."""
    known = "".join(_SPECIAL.get(character, character) for character in text)
    return known.encode("ascii", "replace").decode()


def _table(grid: Grid) -> str:
    width = len(grid.heads)
    body = [
        rf"\begin{{tabular}}{{l{'r' * width}}}",
        r"\toprule",
        _row([escaped(grid.first), *(head.math or escaped(head.name) for head in grid.heads)]),
    ]
    if any(head.unit for head in grid.heads):
        body.append(_row(["", *(_unit(head) for head in grid.heads)]))
    body.append(r"\midrule")
    for i, line in enumerate(grid.lines):
        if line.style == SECTION:
            body += [r"\midrule"] * bool(i)
            body.append(rf"\multicolumn{{{width + 1}}}{{l}}{{\textbf{{{escaped(line.label)}}}}} \\")
        else:
            body.append(_line(line))
    body += [r"\bottomrule", r"\end{tabular}"]
    if width > _NARROW:
        body = [r"\resizebox{\textwidth}{!}{%", *body, "}"]
    notes = [rf"\item[] {escaped(caption.replace(MARK, 'bold'))}" for caption in grid.captions]
    if notes:
        start = r"{\footnotesize\begin{list}{}{\leftmargin=0pt \itemsep=0pt \parsep=0pt}"
        notes = [start, *notes, r"\end{list}}"]
    caption = rf"\caption{{{escaped(grid.title)} ({escaped(grid.subtitle)})}}"
    return "\n".join([r"\begin{table}[p]", r"\centering", caption, *body, *notes, r"\end{table}", ""])


def _line(line: GridLine) -> str:
    label = escaped(line.label.strip())
    if line.label.startswith(" "):
        label = rf"\quad {label}"
    cells = [label, *(_cell(cell) for cell in line.cells)]
    if line.style == FAINT:
        cells = [rf"\textit{{{cell}}}" if cell else "" for cell in cells]
    return _row(cells)


def _cell(cell: GridCell) -> str:
    value = rf"\textbf{{{escaped(cell.value)}}}" if cell.best else escaped(cell.value)
    return rf"{value} {{\footnotesize {escaped(cell.extra)}}}" if cell.extra else value


def _unit(head: GridHead) -> str:
    return f"({escaped(head.unit)})" if head.unit else ""


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"
