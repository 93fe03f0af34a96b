"""Figure of the equivariance error against the largest angle of the rotations."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from tracegrad.plots.style import SERIES_COLOURS, grid, make_figure, styled

FLOOR = 1e-12  # meV; smaller errors are drawn at this value
ROUNDING = 1e-6  # meV; an equivariant network in double precision stays below
_MARKERS = ("o", "s", "^", "D")


@styled
def equivariance_figure(curves: Mapping[str, Mapping[int, float]], title: str = "") -> Figure:
    """Errors (meV) of each network or stage on a logarithmic axis, beside the range that is only rounding.

    Args:
        curves: by label, the error for each largest angle in degrees.
        title: of the figure.
    """
    figure = make_figure(4.2, 3.2)
    ax = figure.subplots()
    ax.axhspan(FLOOR / 10, ROUNDING, color="#ececec", linewidth=0, label="rounding")
    for i, (label, values) in enumerate(curves.items()):
        angles = sorted(values)
        drawn = [max(values[angle], FLOOR) for angle in angles]
        colour, marker = SERIES_COLOURS[i % len(SERIES_COLOURS)], _MARKERS[i % len(_MARKERS)]
        ax.plot(angles, drawn, label=label, color=colour, marker=marker)
    ax.set_yscale("log")
    ax.set_ylim(bottom=FLOOR / 10)
    ax.minorticks_off()
    ax.set_xticks(sorted({angle for values in curves.values() for angle in values}))
    ax.set_xlabel("largest angle of the rotations (degrees)")
    ax.set_ylabel("equivariance error (meV)")
    ax.set_title(title)
    grid(ax, "y")
    ax.legend()
    return figure
