"""Figures of validation errors against the optimisation step, averaged over seeds."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from tracegrad.errors import TraceGradError
from tracegrad.plots.style import (
    ARM_COLOURS,
    OTHER_COLOUR,
    first_of_lines,
    grid,
    make_panels,
    styled,
    three_digits,
)

Curves = Sequence[Sequence[tuple[int, float]]]


@styled
def mean_curves_figure(curves: Mapping[str, Mapping[str, Curves]]) -> Figure:
    """A panel for each database, with the geometric mean over seeds and the range of the seeds of each arm.

    Args:
        curves: database -> arm -> curve of each seed, as pairs (step, MAE in meV); only steps that all seeds of an
            arm have are drawn.

    Raises:
        TraceGradError: there is no curve.
    """
    if not any(seeds for arms in curves.values() for seeds in arms.values()):
        raise TraceGradError("a figure of learning curves needs at least one curve")
    figure, panels = make_panels(len(curves), 3.1, 2.6)
    for axes, (title, arms) in zip(panels, curves.items(), strict=True):
        for arm, seeds in arms.items():
            values = [dict(seed) for seed in seeds]
            steps = sorted(set.intersection(*(set(seed) for seed in values))) if values else []
            if not steps:
                continue
            errors = np.array([[seed[step] for step in steps] for seed in values])
            colour = ARM_COLOURS.get(arm, OTHER_COLOUR)
            axes.fill_between(steps, errors.min(0), errors.max(0), color=colour, alpha=0.15, linewidth=0)
            axes.plot(steps, np.exp(np.log(errors).mean(0)), color=colour, label=f"{arm} ({len(values)})")
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: three_digits(y)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_title(title)
        axes.set_xlabel("optimisation step")
        axes.legend(title="arm (seeds)")
        grid(axes)
    for axes in first_of_lines(panels):
        axes.set_ylabel("validation MAE$^{H}_{all}$ (meV)")
    return figure
