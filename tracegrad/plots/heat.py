"""One heat map of basic blocks with numbers in its cells."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from tracegrad.reports.results import BlockMAE

# Points: numbers at most, and below which they are left out; a number of five characters fills a cell.
_FONT, _SMALLEST = 7.5, 4.0
# Colours of a lower luminance take white numbers.
_DARK = 0.45


def font_size(side: float, shells: int) -> float:
    """Points of a number in a cell of a heat map of ``side`` inches."""
    return min(_FONT, 72 * (side - 0.3) / shells / 3.6)


def draw_blocks(
    ax: Axes,
    table: BlockMAE,
    norm: Normalize,
    colours: str,
    side: float,
    text: Callable[[float], str],
) -> None:
    """Draw a table whose cells are ``side`` inches together; blocks that no sample has stay grey."""
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
    """The largest finite number; 1 where there is none above 0."""
    finite = np.concatenate([array[np.isfinite(array)] for array in values])
    return float(finite.max()) if finite.size and finite.max() > 0 else 1.0
