"""Figures of the differences between arms with their confidence intervals."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tracegrad.errors import TraceGradError
from tracegrad.plots.style import ARM_COLOURS, OTHER_COLOUR, add_note, grid, make_panels, styled
from tracegrad.reports.paired import LEVEL, ArmPair

_PANEL = "accuracy"


@styled
def differences_figure(pairs: Sequence[ArmPair], title: str = "") -> Figure:
    """A panel for each metric with an interval for each pair of arms; intervals that contain 0 are grey and hollow.

    Raises:
        TraceGradError: no pair has a difference in an accuracy metric.
    """
    columns = {
        key: difference.column
        for pair in pairs
        for key, difference in pair.differences.items()
        if difference.column.panel == _PANEL
    }
    if not columns:
        raise TraceGradError("a figure of differences needs at least one pair of arms and one metric")
    height = 0.27 * len(pairs) + 1.15
    figure, axes = make_panels(len(columns), 2.5, height, more=(2.2, 0.3), sharey=True)
    for ax, (key, column) in zip(axes, columns.items(), strict=True):
        for y, pair in enumerate(pairs):
            _draw(ax, y, pair, key)
        ax.axvline(0, color="black", linewidth=0.8)
        ax.set_title(column.math or column.name)
        ax.set_xlabel(f"difference ({column.unit})" if column.unit else "difference")
        ax.margins(x=0.12)
        ax.tick_params(axis="y", length=0)
        grid(ax, "x")
    axes[0].set_yticks(range(len(pairs)), [pair.label for pair in pairs])
    axes[0].set_ylim(len(pairs) - 0.5, -0.5)
    add_note(figure, f"lines: {LEVEL:.0%} confidence intervals; grey: contains 0, no difference shown")
    if title:
        figure.suptitle(title)
    return figure


def _draw(ax: Axes, y: int, pair: ArmPair, key: str) -> None:
    difference = pair.differences.get(key)
    if difference is None or difference.finding == "not finite":
        return
    interval = difference.interval
    shown = difference.finding in ("better", "worse")
    colour = ARM_COLOURS.get(pair.first.arm, OTHER_COLOUR) if shown else "#9a9a9a"
    if interval.low is not None and interval.high is not None:
        ax.plot([interval.low, interval.high], [y, y], color=colour, linewidth=1.6)
    ax.plot(interval.mean, y, "o", color=colour, markerfacecolor=colour if shown else "white", markersize=5)
