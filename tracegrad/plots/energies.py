"""Figures of predicted against true energies of occupied orbitals, with their errors."""

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from tracegrad.plots.style import OTHER_COLOUR, SERIES_COLOURS, grid, make_figure, styled, three_digits
from tracegrad.units import MEV_PER_HARTREE

CORE = -5.0  # hartree; the 1s levels of C (-10) to F (-25) lie below, all valence levels above
_MOST = 20_000  # points in a panel; of more orbitals every n-th is drawn


@styled
def energies_figure(
    true: Float[np.ndarray, " orbitals"], predicted: Float[np.ndarray, " orbitals"], title: str = ""
) -> Figure:
    """Predicted against true energies and the errors, in separate panels for core and valence levels.

    Args:
        true: energies of the occupied orbitals of all molecules, hartree.
        predicted: of the same orbitals; values that are not finite are left out, and their number is written.
        title: of the figure.
    """
    figure = make_figure(7.4, 5.0)
    axes = figure.subplots(2, 2, height_ratios=(5, 2), sharex="col")
    finite = np.isfinite(predicted)
    core = true < CORE
    for (top, bottom), name, part in zip(
        axes.T, ("core levels", "occupied valence levels"), (core, ~core), strict=True
    ):
        left_out = int((part & ~finite).sum())
        part = part & finite
        x, y = true[part], predicted[part]
        more = f", {left_out:,} not finite" if left_out else ""
        top.set_title(f"{name} ({len(x):,}{more})")
        bottom.set_xlabel("true energy (hartree)")
        for ax in (top, bottom):
            grid(ax, "both")
        if not len(x):
            continue
        error = (y - x) * MEV_PER_HARTREE
        ends = [min(x.min(), y.min()), max(x.max(), y.max())]
        top.plot(ends, ends, color=OTHER_COLOUR, linewidth=0.7, zorder=1)
        bottom.axhline(0, color=OTHER_COLOUR, linewidth=0.7, zorder=1)
        shown = slice(None, None, -(-len(x) // _MOST))
        for ax, values in ((top, y), (bottom, error)):
            ax.plot(
                x[shown],
                values[shown],
                linestyle="none",
                marker="o",
                markersize=2.5,
                markeredgewidth=0,
                alpha=0.4,
                color=SERIES_COLOURS[0],
                rasterized=True,
            )
        largest = max(float(np.abs(error).max()), 1e-6) * 1.05
        bottom.set_ylim(-largest, largest)
        mae, mean = (three_digits(float(value)) for value in (np.abs(error).mean(), error.mean()))
        text = f"MAE {mae} meV\nmean error {mean} meV"
        top.text(0.04, 0.96, f"{text} (over levels)", transform=top.transAxes, va="top", fontsize=8)
    axes[0, 0].set_ylabel("predicted energy (hartree)")
    axes[1, 0].set_ylabel("error (meV)")
    figure.align_ylabels(axes[:, 0])
    if title:
        figure.suptitle(title)
    return figure
