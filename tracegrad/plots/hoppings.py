"""The largest matrix elements of H by distance, for each pair of elements."""

import numpy as np
from matplotlib.figure import Figure

from tracegrad.data.survey.reach import BIN, Reach
from tracegrad.elements import SYMBOLS
from tracegrad.plots.style import SERIES_COLOURS, grid, make_figure, styled

_MARKERS = "osD^v"


@styled
def hoppings_figure(reach: Reach, mev: float, title: str = "") -> Figure:
    """Largest |H| (meV) over distance (angstrom); ``mev`` is the unit of H in meV."""
    figure = make_figure(4.6, 3.2)
    axes = figure.subplots()
    for n, (pair, values) in enumerate(sorted(reach.largest.items())):
        seen = np.flatnonzero(values > 0)
        axes.semilogy(
            BIN * (seen + 0.5),
            mev * values[seen],
            color=SERIES_COLOURS[n % len(SERIES_COLOURS)],
            marker=_MARKERS[n // len(SERIES_COLOURS) % len(_MARKERS)],
            markersize=3,
            linewidth=1.0,
            label="-".join(SYMBOLS[z] for z in pair),
        )
    axes.set_xlabel("distance (\N{LATIN CAPITAL LETTER A WITH RING ABOVE})")
    axes.set_ylabel("largest |H| (meV)")
    grid(axes)
    if reach.largest:
        axes.legend(ncols=1 + len(reach.largest) // 8)
    if title:
        axes.set_title(title)
    return figure
