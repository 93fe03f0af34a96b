"""Draws one heat map of basic blocks with numbers in its cells."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from tracegrad.reports.results import BlockMAE

_FONT, _SMALLEST = (
    7.5,
    4.0,
)  # points: largest font of the numbers, and smallest, below which they are left out
_DARK = 0.45  # luminance; on darker colours the numbers are white


def font_size(side: float, shells: int) -> float:
    """Font size (points) at which a number of five characters fits into a cell of a heat map of ``side`` inches."""
    return min(_FONT, 72 * (side - 0.3) / shells / 3.6)


def draw_blocks(
    ax: Axes,
    table: BlockMAE,
    norm: Normalize,
    colours: str,
    side: float,
    text: Callable[[float], str],
) -> None:
    """Draw a heat map of ``side`` inches with the numbers of a table; blocks that no sample has stay grey.

    Args:
        ax: axes to draw in.
        table: block errors or changes.
        norm, colours: colour scale and name of the colour map.
        side: length of the sides, inches; determines the font size.
        text: formats a number.
    """
    font = font_size(side, max(len(table.rows), len(table.columns)))
    ax.imshow(np.ma.masked_invalid(table.values), norm=norm, cmap=colours, aspect="equal")
    ax.set_facecolor("#dddddd")
    for (p, q), value in np.ndenumerate(table.values):
        if np.isfinite(value) and font >= _SMALLEST:
            red, green, blue, _ = colormaps[colours](float(norm(value)))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < _DARK
            colour = "white" if dark else "black"
            ax.text(q, p, text(float(value)), ha="center", va="center", color=colour, fontsize=font)
    ax.set_xticks(range(len(table.columns)), table.columns)
    ax.set_yticks(range(len(table.rows)), table.rows)
    ax.tick_params(length=0, labelsize=min(8.0, 1.4 * font))
    ax.spines[:].set_visible(False)
    # White gaps between the cells.
    ax.set_xticks(np.arange(len(table.columns) - 1) + 0.5, minor=True)
    ax.set_yticks(np.arange(len(table.rows) - 1) + 0.5, minor=True)
    ax.grid(True, which="minor", color="white", linewidth=1.0)
    ax.tick_params(which="minor", length=0)


def finite_maximum(values: Sequence[Float[np.ndarray, "_ _"]]) -> float:
    """The largest finite number of several arrays; 1 if no number is positive."""
    finite = np.concatenate([array[np.isfinite(array)] for array in values])
    return float(finite.max()) if finite.size and finite.max() > 0 else 1.0
