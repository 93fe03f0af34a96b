"""Figure of measures that need no label against the true errors of each molecule."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from tracegrad.errors import TraceGradError
from tracegrad.physics.molecules.acceleration_results import MEASURES, Acceleration, rank_correlation
from tracegrad.plots.scf import FLOOR
from tracegrad.plots.style import SERIES_COLOURS, grid, make_figure, styled
from tracegrad.units import MEV_PER_HARTREE

_AXES = {
    "scf_residual": "SCF residual, mean |F[D] - H| (meV)",
    "commutator_norm": "commutator norm of F[D] and D (meV)",
    "ensemble_spread": "spread of H over the networks (meV)",
}


@styled
def trust_figure(results: Sequence[Acceleration], title: str = "") -> Figure:
    """Measures of each prediction without a label against its errors of H and of the energy; logarithmic.

    These are SCF residual, commutator norm and, of an ensemble, its spread.

    Raises:
        TraceGradError: no molecule has these measures.
    """
    results = [result for result in results if result.measure(0) is not None]
    if not results:
        raise TraceGradError("a figure of measures without labels needs at least one molecule that has them")
    errors = {
        "MAE of the predicted H (meV)": [result.level for result in results],
        "energy error of its density (meV)": [result.direct_energy_error(0) for result in results],
    }
    measures = [k for k in range(len(MEASURES)) if all(result.measure(k) is not None for result in results)]
    figure = make_figure(3.6 * len(measures), 5.6)
    axes = figure.subplots(2, len(measures), sharex="col", sharey="row")
    for row, (error, of_molecules) in zip(axes, errors.items(), strict=True):
        y = np.maximum(np.array(of_molecules, dtype=float) * MEV_PER_HARTREE, FLOOR)
        for k, ax in zip(measures, row, strict=True):
            measured = np.array([result.measure(k) for result in results], dtype=float)
            x = np.maximum(measured * MEV_PER_HARTREE, FLOOR)
            ax.plot(x, y, linestyle="none", marker="o", markersize=4, color=SERIES_COLOURS[0], alpha=0.8)
            ax.set_xscale("log")
            ax.set_yscale("log")
            correlation = rank_correlation(x.tolist(), y.tolist())
            if not np.isnan(correlation):
                ax.set_title(f"rank correlation {correlation:.2f}", fontsize=9)
            grid(ax, "both")
        row[0].set_ylabel(error)
    for k, ax in zip(measures, axes[-1], strict=True):
        ax.set_xlabel(_AXES[MEASURES[k]])
    if title:
        figure.suptitle(title)
    return figure
