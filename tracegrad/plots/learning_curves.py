"""Figures of training losses, validation errors and the learning rate against the optimisation step."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from tracegrad.errors import TraceGradError
from tracegrad.plots.style import ARM_COLOURS, OTHER_COLOUR, SERIES_COLOURS, grid, make_figure, styled
from tracegrad.reports.metrics_file import Curve, Points

# Losses of batches scatter: a curve with more points than this is averaged (logarithmically) over equal intervals.
MOST_POINTS = 100

_LOSSES = {"train/loss": "total", "train/loss_h": "H part", "train/loss_t": "trace part"}
_ERRORS = {"val/h_mae": "all", "val/h_mae_diag": "diag", "val/h_mae_nondiag": "nondiag"}
_AXES = {
    "train/loss_h": "training loss, H part (hartree or eV)",
    "train/loss_t": "training loss, trace part (hartree² or eV²)",
    "val/h_mae": "validation MAE$^{H}_{all}$ (meV)",
}


@dataclass(frozen=True)
class RunCurves:
    """The curves of one training run: log name -> (steps, values); losses in the unit of H, MAE in meV."""

    curves: dict[str, Curve]
    arm: str = ""
    label: str = ""
    seed: int | None = None


@styled
def learning_curves(runs: Sequence[RunCurves], title: str = "") -> Figure:
    """Losses and validation MAE on logarithmic axes, and below them the learning rate.

    For one run the figure has every loss and every validation MAE. For several runs it has the H loss, the trace loss
    and MAE^H_all: for each arm the geometric mean over its seeds, in a band of one sample standard deviation of the
    logarithm.

    Raises:
        TraceGradError: there is no run.
    """
    if not runs:
        raise TraceGradError("learning curves need at least one run")
    several = len(runs) > 1
    with_trace = several and any("train/loss_t" in run.curves for run in runs)
    panels = 3 if with_trace else 2
    figure = make_figure(3.0 * panels + 0.6, 4.3 if several else 4.0)
    layout = figure.add_gridspec(2, panels, height_ratios=(4.5, 1))
    upper = [figure.add_subplot(layout[0, i]) for i in range(panels)]
    rate = figure.add_subplot(layout[1, :])
    if several:
        names = ["train/loss_h", *(["train/loss_t"] if with_trace else []), "val/h_mae"]
        for ax, name in zip(upper, names, strict=True):
            _draw_arms(ax, runs, name)
            ax.set_ylabel(_AXES[name])
        handles = upper[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=len(handles[0]))
    else:
        for ax, series in zip(upper, (_LOSSES, _ERRORS), strict=True):
            _draw_series(ax, runs[0], series)
            if ax.lines:
                ax.legend(loc="upper right")
        upper[0].set_ylabel("training loss (hartree or eV)")
        upper[1].set_ylabel("validation MAE$^{H}$ (meV)")
    _draw_rate(rate, runs)
    last = max((curve[0][-1] for run in runs for curve in run.curves.values()), default=1)
    for ax in (*upper, rate):
        ax.set_xlim(-0.02 * last, 1.02 * last)
        ax.set_xlabel("step")
    for ax in upper:
        _log_axis(ax)
    if title:
        figure.suptitle(title)
    return figure


def _draw_series(ax: Axes, run: RunCurves, names: dict[str, str]) -> None:
    for (name, label), colour in zip(names.items(), SERIES_COLOURS, strict=False):
        if name in run.curves:
            steps, values = _thinned(run.curves[name])
            ax.plot(steps, values, color=colour, label=label, marker=_marker(steps), markersize=3)


def _draw_arms(ax: Axes, runs: Sequence[RunCurves], name: str) -> None:
    for arm in dict.fromkeys(run.arm for run in runs):
        members = [run for run in runs if run.arm == arm]
        curves = [_thinned(run.curves[name]) for run in members if name in run.curves]
        colour = ARM_COLOURS.get(arm, OTHER_COLOUR)
        label = members[0].label or arm
        if not curves:
            ax.plot([], [], color=colour, label=label)
            continue
        steps, values, factor = _mean(curves)
        if len(curves) > 1:
            ax.fill_between(steps, values / factor, values * factor, color=colour, alpha=0.18, linewidth=0)
        ax.plot(steps, values, color=colour, linewidth=1.8, label=label)


def _draw_rate(ax: Axes, runs: Sequence[RunCurves]) -> None:
    drawn: list[Curve] = []
    for run in runs:
        curve = run.curves.get("lr")
        # Most arms have the same schedule, whose equal lines would cover each other.
        if curve is None or any(_equal(curve, other) for other in drawn):
            continue
        drawn.append(curve)
        colour = ARM_COLOURS.get(run.arm, OTHER_COLOUR) if len(drawn) > 1 else OTHER_COLOUR
        ax.plot(*curve, color=colour, linewidth=1.0)
    ax.set_ylim(bottom=0)
    ax.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2), useMathText=True)
    ax.yaxis.get_offset_text().set_fontsize(7)
    ax.set_ylabel("learning rate")
    grid(ax)


def _log_axis(ax: Axes) -> None:
    if not any(np.size(line.get_xdata()) for line in ax.lines):  # a logarithmic axis needs a number
        ax.text(0.5, 0.5, "no finite value", ha="center", va="center", transform=ax.transAxes)
        ax.set_yticks([])
        return
    ax.set_yscale("log")
    grid(ax)
    lower, upper = ax.get_ylim()
    ax.yaxis.set_minor_formatter(NullFormatter())
    if upper / lower < 100:
        # An axis of less than two decades has too few powers of ten as labels.
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _thinned(curve: Curve) -> Curve:
    steps, values = curve
    keep = np.isfinite(values) & (values > 0)
    steps, values = steps[keep], values[keep]
    if len(steps) <= MOST_POINTS:
        return steps, values
    edges = np.linspace(steps[0], steps[-1], MOST_POINTS + 1)
    span = np.digitize(steps, edges[1:-1])
    count = np.bincount(span, minlength=MOST_POINTS)
    filled = count > 0
    middle = np.bincount(span, steps, MOST_POINTS)[filled] / count[filled]
    return middle, np.exp(np.bincount(span, np.log(values), MOST_POINTS)[filled] / count[filled])


def _mean(curves: Sequence[Curve]) -> tuple[Points, Points, Points]:
    """Steps, geometric mean and factor of the band, at the steps of the first curve that all curves cover."""
    curves = [curve for curve in curves if len(curve[0])]
    if not curves:
        return np.empty(0), np.empty(0), np.empty(0)
    steps = curves[0][0]
    first, last = max(curve[0][0] for curve in curves), min(curve[0][-1] for curve in curves)
    steps = steps[(steps >= first) & (steps <= last)]
    logarithms = [np.interp(steps, curve[0], np.log(curve[1])) for curve in curves]
    spread = np.std(logarithms, axis=0, ddof=1) if len(curves) > 1 else np.zeros(len(steps))
    return steps, np.exp(np.mean(logarithms, axis=0)), np.exp(spread)


def _equal(one: Curve, other: Curve) -> bool:
    return all(len(a) == len(b) and np.allclose(a, b, rtol=1e-6) for a, b in zip(one, other, strict=True))


def _marker(steps: Float[np.ndarray, " points"]) -> str | None:
    return "o" if len(steps) < 25 else None
