"""MAE of each basic block H^{lp x lq} of the Hamiltonian (Figs. 5 to 7 of the paper), meV."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from tracegrad.errors import TraceGradError
from tracegrad.plots.style import make_figure, styled, three_digits
from tracegrad.results import BlockMAE, read_block_mae

__all__ = ["BlockMAE", "block_mae_figure", "mean_block_mae", "read_block_mae"]

_COLOURS = "YlGnBu"
_DARK = 0.55
# Inches: a cell at most, the area of all heat maps at most, and the frame around them.
_CELL = 0.42
_WIDTH, _HEIGHT = 18.8, 11.2
# Points: numbers at most, and below which they are left out; a number of five characters fills a cell.
_FONT, _SMALLEST = 7.5, 4.0


def mean_block_mae(tables: list[BlockMAE]) -> BlockMAE:
    """Mean over seeds, block by block.

    Raises:
        TraceGradError: no table, or tables of different shells.
    """
    if not tables:
        raise TraceGradError("block errors: no table to take the mean of")
    first = tables[0]
    for table in tables[1:]:
        if (table.rows, table.columns) != (first.rows, first.columns):
            raise TraceGradError(
                f"block errors of different shells cannot be averaged: {first.rows} and {table.rows}; "
                "report runs of different bases separately"
            )
    return BlockMAE(first.rows, first.columns, np.mean([table.values for table in tables], axis=0))


@styled
def block_mae_figure(tables: Mapping[str, BlockMAE], title: str = "") -> Figure:
    """A heat map with numbers for each entry (title -> block errors, meV) on one common colour scale.

    Raises:
        TraceGradError: there is no table.
    """
    if not tables:
        raise TraceGradError("block errors: no table to draw")
    columns = min(len(tables), 4)
    lines = -(-len(tables) // columns)
    shells = max(len(table.columns) for table in tables.values())
    side = min(max(2.3, _CELL * shells), _WIDTH / columns, _HEIGHT / lines - 0.35)
    figure = make_figure(side * columns + 1.1, (side + 0.35) * lines + (0.75 if title else 0.4))
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    font = min(_FONT, 72 * (side - 0.3) / shells / 3.6)
    norm = Normalize(0, _largest(tables))
    for ax, (name, table) in zip(axes.flat, tables.items(), strict=False):
        _draw(ax, table, norm, font)
        ax.set_title(name)
    for ax in axes.flat[len(tables) :]:
        ax.set_visible(False)
    for ax in axes[:, 0]:
        ax.set_ylabel("shell $p$")
    for ax in axes[-1]:
        ax.set_xlabel("shell $q$")
    bar = figure.colorbar(ScalarMappable(norm, _COLOURS), ax=axes, aspect=30, pad=0.015)
    bar.set_label("MAE$^{H}_{block}$ (meV)")
    bar.outline.set_visible(False)  # type: ignore[operator]
    if title:
        figure.suptitle(title)
    return figure


def _draw(ax: Axes, table: BlockMAE, norm: Normalize, font: float) -> None:
    ax.imshow(np.ma.masked_invalid(table.values), norm=norm, cmap=_COLOURS, aspect="equal")
    ax.set_facecolor("#dddddd")
    for (p, q), value in np.ndenumerate(table.values):
        if np.isfinite(value) and font >= _SMALLEST:
            colour = "white" if norm(value) > _DARK else "black"
            ax.text(q, p, three_digits(float(value)), ha="center", va="center", color=colour, fontsize=font)
    ax.set_xticks(range(len(table.columns)), table.columns)
    ax.set_yticks(range(len(table.rows)), table.rows)
    ax.tick_params(length=0, labelsize=min(8.0, 1.4 * font))
    ax.spines[:].set_visible(False)
    # White gaps between the cells.
    ax.set_xticks(np.arange(len(table.columns) - 1) + 0.5, minor=True)
    ax.set_yticks(np.arange(len(table.rows) - 1) + 0.5, minor=True)
    ax.grid(True, which="minor", color="white", linewidth=1.0)
    ax.tick_params(which="minor", length=0)


def _largest(tables: Mapping[str, BlockMAE]) -> float:
    finite = np.concatenate([table.values[np.isfinite(table.values)] for table in tables.values()])
    return float(finite.max()) if finite.size and finite.max() > 0 else 1.0
