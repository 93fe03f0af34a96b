"""Figures of the errors of the arms of an ablation: mean over seeds, spread, and every single seed."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from tracegrad.errors import TraceGradError
from tracegrad.plots.style import (
    ARM_COLOURS,
    ARM_MARKERS,
    OTHER_COLOUR,
    add_note,
    first_of_lines,
    grid,
    make_panels,
    styled,
)
from tracegrad.reports.arms import ARM_LABELS


@styled
def ablation_figure(
    values: Mapping[str, Mapping[str, Sequence[float]]],
    labels: Mapping[str, str],
    metrics: Mapping[str, str],
    trivial: Mapping[str, float] | None = None,
    title: str = "",
) -> Figure:
    """A panel for each metric: for each arm the mean (bar), the sample standard deviation, and a point for each seed.

    Args:
        values: arm -> metric -> one value for each seed, meV.
        labels: arm -> name below its bar.
        metrics: metric -> title of its panel; there are three panels in a line.
        trivial: metric -> value of the trivial predictor (meV), written below the title of the panel.
        title: of the figure.

    Raises:
        TraceGradError: there is no arm or no metric.
    """
    if not values or not metrics:
        raise TraceGradError("an ablation figure needs at least one arm and one metric")
    arms = [arm for arm in ARM_LABELS if arm in values] + sorted(values.keys() - ARM_LABELS.keys())
    figure, axes = make_panels(len(metrics), 2.8 if len(metrics) > 1 else 4.2, 3.3)
    for ax, (metric, name) in zip(axes, metrics.items(), strict=True):
        for x, arm in enumerate(arms):
            _draw(ax, x, arm, values[arm].get(metric, ()))
        caption = f"\ntrivial predictor: {trivial[metric]:.4g} meV" if trivial and metric in trivial else ""
        ax.set_title(name + caption)
        names = [labels.get(arm, arm) for arm in arms]
        ax.set_xticks(range(len(arms)), names, rotation=30, ha="right", rotation_mode="anchor")
        ax.tick_params(axis="x", length=0)
        ax.set_xlim(-0.6, len(arms) - 0.4)
        ax.margins(y=0.16)
        ax.set_ylim(bottom=0)
        grid(ax)
    for ax in first_of_lines(axes):
        ax.set_ylabel("test MAE (meV)")
    seeds = {len(of_metric) for of_arm in values.values() for of_metric in of_arm.values()}
    note = "bars: mean over seeds, lines: sample standard deviation, points: seeds"
    add_note(figure, note if seeds != {1} else "one seed an arm: no spread")
    if title:
        figure.suptitle(title)
    return figure


def _draw(ax: Axes, x: int, arm: str, values: Sequence[float]) -> None:
    finite = np.array([value for value in values if np.isfinite(value)])
    if not len(finite):
        ax.annotate("none", (x, 0), xytext=(0, 2), textcoords="offset points", ha="center", fontsize=7.5)
        return
    colour = ARM_COLOURS.get(arm, OTHER_COLOUR)
    mean = finite.mean()
    spread = finite.std(ddof=1) if len(finite) > 1 else 0.0
    pale = tuple(1 - 0.4 * (1 - channel) for channel in to_rgb(colour))
    ax.bar(x, mean, width=0.72, color=pale, edgecolor=colour, linewidth=1.0)
    if len(finite) > 1:
        ax.errorbar(x - 0.2, mean, spread, color="black", linewidth=1.0, capsize=3, zorder=3)
        offsets = np.linspace(-0.03, 0.25, len(finite))
        ax.plot(
            x + offsets, finite, ARM_MARKERS.get(arm, "o"), color=colour, markersize=4,
            markeredgecolor="black", markeredgewidth=0.5, zorder=4,
        )  # fmt: skip
    top = max(mean + spread, float(finite.max()))
    ax.annotate(f"{mean:.4g}", (x, top), xytext=(0, 5), textcoords="offset points", ha="center", fontsize=8)
