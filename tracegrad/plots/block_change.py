"""Heat maps of the MAE of each basic block without and with TraceGrad, and its change (Figs. 5 to 7 of the paper)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure

from tracegrad.errors import TraceGradError
from tracegrad.plots.heat import draw_blocks, finite_maximum
from tracegrad.plots.style import make_figure, styled, three_digits
from tracegrad.reports.results import BlockMAE

_ERRORS, _CHANGES = "YlGnBu", "RdBu_r"
# Inches: largest side of a cell, largest and smallest side of a heat map.
_CELL, _LARGEST, _SMALLEST = 0.42, 4.6, 2.1
_MOST = 60.0  # percent; larger changes have the last colour of the scale


@dataclass(frozen=True)
class BlockChange:
    """Block errors (meV) of two arms on the same samples."""

    title: str
    first_label: str
    first: BlockMAE
    second_label: str
    second: BlockMAE

    @property
    def percent(self) -> Float[np.ndarray, "p q"]:
        """Relative change from the first to the second arm, percent; NaN without a block or without a first error."""
        with np.errstate(divide="ignore", invalid="ignore"):
            change = 100 * (self.second.values / self.first.values - 1)
        return np.where(np.isfinite(change), change, np.nan)


@styled
def block_change_figure(changes: Sequence[BlockChange]) -> Figure:
    """A row of three heat maps for each entry: two arms on a common colour scale, and the change in percent.

    Raises:
        TraceGradError: there is no entry, or the arms of one have different shells.
    """
    if not changes:
        raise TraceGradError("block errors: no pair of arms to draw")
    for change in changes:
        shells = [(table.rows, table.columns) for table in (change.first, change.second)]
        if shells[0] != shells[1]:
            raise TraceGradError(
                f"{change.title}: block errors of different shells, {shells[0][0]} and {shells[1][0]}; "
                "report runs of different bases separately"
            )
    sides = [max(_SMALLEST, min(_LARGEST, _CELL * len(change.first.columns))) for change in changes]
    side = max(sides)
    figure = make_figure(3 * side + 2.6, sum(sides) + 0.75 * len(sides))
    axes = figure.subplots(len(changes), 3, squeeze=False, height_ratios=sides)
    for line, change, height in zip(axes, changes, sides, strict=True):
        _draw(figure, line, change, height)
    return figure


def _draw(figure: Figure, axes: np.ndarray, change: BlockChange, side: float) -> None:
    norm = Normalize(0, finite_maximum([change.first.values, change.second.values]))
    for ax, label, table in zip(
        axes, (change.first_label, change.second_label), (change.first, change.second), strict=False
    ):
        draw_blocks(ax, table, norm, _ERRORS, side, three_digits)
        ax.set_title(f"{change.title}: {label}")
    bar = figure.colorbar(ScalarMappable(norm, _ERRORS), ax=list(axes[:2]), aspect=25, pad=0.015)
    _name(bar, "MAE$^{H}_{block}$ (meV)")
    relative = BlockMAE(change.first.rows, change.first.columns, change.percent)
    diverging = TwoSlopeNorm(0, -_MOST, _MOST)
    draw_blocks(axes[2], relative, diverging, _CHANGES, side, _percent)
    worse = np.nansum(change.percent > 0)
    axes[2].set_title(f"change, {worse} of {np.isfinite(change.percent).sum()} blocks worse")
    mappable = ScalarMappable(diverging, _CHANGES)
    _name(figure.colorbar(mappable, ax=axes[2], aspect=25, pad=0.03, extend="both"), "change (%)")
    axes[0].set_ylabel("shell $p$")
    for ax in axes:
        ax.set_xlabel("shell $q$")


def _percent(value: float) -> str:
    return f"{value:+.0f}" if abs(value) >= 0.5 else "0"


def _name(bar, name: str) -> None:
    bar.set_label(name)
    bar.outline.set_visible(False)
