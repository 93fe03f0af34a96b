"""Densities of states beside bands or levels, whose energies are the vertical axis."""

from collections.abc import Sequence
from itertools import cycle

from matplotlib.axes import Axes

from tracegrad.physics.dos.density import DensityOfStates
from tracegrad.plots.style import OTHER_COLOUR, SERIES_COLOURS

_GROUP_COLOURS = ("#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7f3c8d", "#6e6e6e")
_DASHED = (0, (3.5, 1.8))


def draw_densities(
    ax: Axes,
    densities: Sequence[DensityOfStates],
    zero: float = 0.0,
    *,
    unit: str,
    labels: Sequence[str] = ("total", ""),
) -> None:
    """The total, its groups and, dashed, the total of a prediction; a shade of the standard error if there is one.

    Args:
        ax: with the limits of the energies.
        densities: one, or that of DFT and of a prediction, drawn at the energies of the first.
        zero: energy (eV) that is drawn as 0.
        unit: of the densities, for the axis.
        labels: of the totals in the legend; empty: none.
    """
    own = densities[0]
    energies = own.energies - zero
    if len(own.groups) > 1:
        for name, values, colour in zip(own.groups, own.projected, cycle(_GROUP_COLOURS), strict=False):
            ax.plot(values, energies, color=colour, linewidth=0.9, label=name)
    styles = ((OTHER_COLOUR, "-"), (SERIES_COLOURS[1], _DASHED))
    for density, label, (colour, style) in zip(densities, labels, styles, strict=False):
        ax.plot(density.total, energies, color=colour, linewidth=1.1, linestyle=style, label=label or None)
        if density.error is not None:
            edges = (density.total - density.error, density.total + density.error)
            ax.fill_betweenx(energies, *edges, color=colour, alpha=0.25, linewidth=0)
    ax.set_xlim(0.0, 1.05 * max(float(density.total.max()) for density in densities) or 1.0)
    ax.set_xlabel(unit)
    ax.spines[["top", "right"]].set_visible(True)
    if len(ax.get_legend_handles_labels()[0]) > 1:
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02), handlelength=1.4)
