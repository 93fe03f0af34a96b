"""Figure of measures that need no label against the true error of each molecule."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from tracegrad.errors import TraceGradError
from tracegrad.physics.molecules.acceleration_results import Acceleration, rank_correlation
from tracegrad.plots.style import SERIES_COLOURS, grid, make_figure, styled
from tracegrad.units import MEV_PER_HARTREE

_MEASURES = ("SCF residual, mean |F[D] - H| (meV)", "commutator norm of F[D] and D (meV)")


@styled
def trust_figure(results: Sequence[Acceleration], title: str = "") -> Figure:
    """SCF residual and commutator norm of each prediction against its MAE of H, both axes logarithmic.

    Raises:
        TraceGradError: no molecule has these measures.
    """
    results = [result for result in results if result.measure(0) is not None]
    if not results:
        raise TraceGradError("a figure of measures without labels needs at least one molecule that has them")
    levels = np.array([result.level for result in results]) * MEV_PER_HARTREE
    figure = make_figure(7.2, 3.3)
    for k, (ax, name) in enumerate(zip(figure.subplots(1, 2, sharey=True), _MEASURES, strict=True)):
        values = np.array([result.measure(k) for result in results], dtype=float) * MEV_PER_HARTREE
        ax.plot(
            values, levels, linestyle="none", marker="o", markersize=4, color=SERIES_COLOURS[0], alpha=0.8
        )
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel(name)
        grid(ax, "both")
        if len(results) > 2:
            correlation = rank_correlation(values.tolist(), levels.tolist())
            text = f"rank correlation {correlation:.2f}, {len(results)} molecules"
            ax.text(0.04, 0.96, text, transform=ax.transAxes, va="top", fontsize=8)
        if not k:
            ax.set_ylabel("MAE of the predicted H (meV)")
    if title:
        figure.suptitle(title)
    return figure
