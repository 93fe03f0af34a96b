"""Heat maps of the MAE (meV) of each basic block H^{lp x lq} of the Hamiltonian (Figs. 5 to 7 of the paper)."""

from collections.abc import Mapping

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from tracegrad.errors import TraceGradError
from tracegrad.plots.heat import draw_blocks, finite_maximum
from tracegrad.plots.style import make_figure, styled, three_digits
from tracegrad.reports.results import BlockMAE

_COLOURS = "YlGnBu"
# Inches: largest side of a cell, largest width and height of all heat maps together.
_CELL = 0.42
_WIDTH, _HEIGHT = 18.8, 11.2


def mean_block_mae(tables: list[BlockMAE]) -> BlockMAE:
    """Mean over seeds, block by block.

    Raises:
        TraceGradError: there is no table, or the tables have different shells.
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
    norm = Normalize(0, finite_maximum([table.values for table in tables.values()]))
    for ax, (name, table) in zip(axes.flat, tables.items(), strict=False):
        draw_blocks(ax, table, norm, _COLOURS, side, three_digits)
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
