"""Figures of relative changes of errors against another arm, for several databases and metrics."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from tracegrad.errors import TraceGradError
from tracegrad.plots.style import ARM_COLOURS, OTHER_COLOUR, add_note, grid, make_panels, styled
from tracegrad.reports.arms import ARM_LABELS, BASELINE, arm_name
from tracegrad.reports.relative import RelativeChange

_ORDER = sorted(ARM_LABELS, key=lambda arm: arm == BASELINE)  # the baseline last
_LIMITS = (-0.8, 1.0)  # widest range of the axis, so that an outlier does not compress the other seeds


@dataclass(frozen=True)
class ChangeRow:
    """The change of one metric by one arm on one database."""

    database: str
    metric: str
    arm: str
    change: RelativeChange


@styled
def changes_figure(rows: Sequence[ChangeRow]) -> Figure:
    """A panel for each database with a group of intervals for each metric and a colour for each arm.

    Dots are the geometric means over seeds, lines their 95 % intervals, ticks the single seeds. A dot is filled if
    the interval excludes 0.

    Raises:
        TraceGradError: there are no rows.
    """
    if not rows:
        raise TraceGradError("a figure of changes needs at least one comparison")
    databases = list(dict.fromkeys(row.database for row in rows))
    arms = [arm for arm in _ORDER if any(row.arm == arm for row in rows)]
    most = max(len({row.metric for row in rows if row.database == database}) for database in databases)
    figure, panels = make_panels(len(databases), 3.1, 0.2 * (len(arms) + 1) * most + 0.9, more=(0.4, 0.4))
    for axes, database in zip(panels, databases, strict=True):
        _panel(axes, [row for row in rows if row.database == database], arms)
        axes.set_title(database)
    handles = [
        panels[0].plot([], [], "o-", color=ARM_COLOURS.get(arm, OTHER_COLOUR), label=arm_name(arm))[0]
        for arm in arms
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(arms))
    add_note(
        figure,
        "change of the error against the other arm of the same seed; lines: 95 % intervals over seeds; ticks: seeds",
    )
    return figure


def _panel(axes: Axes, rows: Sequence[ChangeRow], arms: Sequence[str]) -> None:
    metrics = list(dict.fromkeys(row.metric for row in rows))
    step = 1 / (len(arms) + 1)
    for row in rows:
        y = metrics.index(row.metric) + step * (arms.index(row.arm) - (len(arms) - 1) / 2)
        colour = ARM_COLOURS.get(row.arm, OTHER_COLOUR)
        change = row.change
        if change.low is not None and change.high is not None:
            axes.plot([change.low, change.high], [y, y], color=colour, linewidth=1.6)
        axes.plot(change.by_seed, [y] * len(change.by_seed), "|", color=colour, markersize=5, alpha=0.6)
        shown = change.finding in ("better", "worse")
        axes.plot(
            change.mean, y, "o", color=colour, markerfacecolor=colour if shown else "white", markersize=4.5
        )
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(metrics)), metrics)
    axes.set_ylim(len(metrics) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, _LIMITS[0]), min(high, _LIMITS[1]))
    grid(axes, "x")
