"""The common style of all figures, without the global state of pyplot.

figure = make_figure(7.0, 3.0)
axes = figure.subplots(1, 2)
...
save(figure, "figure.png")
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tracegrad.errors import TraceGradError
from tracegrad.system.whole_files import replacing

# Colours of Okabe and Ito, distinguishable with every common colour blindness; markers for prints in grey.
ARM_COLOURS = {
    "none": "#6e6e6e",
    "trace": "#e69f00",
    "grad": "#0072b2",
    "tracegrad": "#009e73",
    "lean": "#cc79a7",
}
ARM_MARKERS = {"none": "o", "trace": "s", "grad": "^", "tracegrad": "D", "lean": "v"}
SERIES_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
OTHER_COLOUR = "#000000"
LIGHT = "#c8c8c8"
DPI = 200
FORMATS = (".png", ".pdf")
MOST_COLUMNS = 3  # panels in a line

_RC: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "mathtext.fontset": "dejavusans",
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.0,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.fontsize": 8.0,
    "figure.titlesize": 10.5,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": False,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "image.interpolation": "nearest",
    "pdf.fonttype": 42,  # text stays text in the PDF
}

_P = ParamSpec("_P")
_R = TypeVar("_R")


def styled(draw: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorate a function so that it draws in the style of this project; matplotlib's settings stay unchanged."""

    @functools.wraps(draw)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with mpl.rc_context(_RC):
            return draw(*args, **kwargs)

    return run


def make_figure(width: float, height: float) -> Figure:
    """An empty figure (inches) whose layout adapts to its content."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def make_panels(
    count: int, width: float, height: float, *, more: tuple[float, float] = (0.0, 0.0), sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure with a number of panels (width and height in inches), at most three in a line.

    Args:
        count: number of panels.
        width, height: of a panel.
        more: width and height of the figure besides its panels.
        sharey: whether the panels have the same y axis.
    """
    columns = min(count, MOST_COLUMNS)
    lines = -(-count // columns)
    figure = make_figure(width * columns + more[0], height * lines + more[1])
    axes = list(figure.subplots(lines, columns, squeeze=False, sharey=sharey).flat)
    for ax in axes[count:]:
        ax.set_visible(False)
    return figure, axes[:count]


def first_of_lines(axes: Sequence[Axes]) -> Sequence[Axes]:
    """The leftmost panels of a figure of `make_panels`."""
    return axes[::MOST_COLUMNS]


def add_note(figure: Figure, text: str) -> None:
    """Write a note in small letters below a figure."""
    figure.supxlabel(text, fontsize=7.5, color="#555555")


def grid(axes: Axes, axis: str = "y") -> None:
    """Draw faint grid lines of one axis ("x", "y" or "both") behind the data."""
    axes.grid(True, which="major", axis=axis)  # type: ignore[arg-type]


def three_digits(value: float) -> str:
    """A number with three significant digits; from 0.0001 to a million without an exponent."""
    if 1000 <= abs(value) < 1e6:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".")


@styled
def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure as .png (200 dpi) or .pdf; an existing file is replaced only when the new one is complete.

    Raises:
        TraceGradError: the path has another suffix, or cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise TraceGradError(f"{path}: figures are written as {' or '.join(FORMATS)}; change the file name")
    metadata = {"CreationDate": None} if suffix == ".pdf" else {"Software": None}
    with replacing(path) as draft:
        figure.savefig(draft, format=suffix[1:], dpi=DPI, metadata=metadata)
    return path
