"""Figures of predicted against true matrix elements, with their errors."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Inexact
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from tracegrad.plots.style import grid, make_figure, styled, three_digits
from tracegrad.units import MEV

BINS = 110
_COLOURS = "viridis"


@dataclass(frozen=True)
class MatrixElements:
    """True and predicted matrix elements of on-site blocks (an atom with itself) and of pair blocks, in ``unit``."""

    true_on_site: Inexact[np.ndarray, " on_site"]
    predicted_on_site: Inexact[np.ndarray, " on_site"]
    true_pairs: Inexact[np.ndarray, " pairs"]
    predicted_pairs: Inexact[np.ndarray, " pairs"]
    unit: str = "hartree"


@styled
def elements_figure(elements: MatrixElements, title: str = "") -> Figure:
    """On-site and pair elements: predicted against true values, and the errors (meV) against true values.

    For complex elements the real parts are drawn, while MAE and R^2 are those of the complex numbers.
    """
    figure = make_figure(7.4, 5.0)
    axes = figure.subplots(2, 2, height_ratios=(5, 2), sharex="col")
    panels = (
        ("on-site blocks", elements.true_on_site, elements.predicted_on_site),
        ("pair blocks", elements.true_pairs, elements.predicted_pairs),
    )
    part = "real part, " if np.iscomplexobj(elements.true_on_site) else ""
    meshes = []
    for (top, bottom), (name, true, predicted) in zip(axes.T, panels, strict=True):
        top.set_title(f"{name} ({true.size:,} elements)")
        bottom.set_xlabel(f"{part}true ({elements.unit})")
        if true.size:
            meshes += _draw(top, bottom, true, predicted, MEV[elements.unit])
    norm = LogNorm(1, max([10, *(mesh.get_clim()[1] or 0 for mesh in meshes)]))
    for mesh in meshes:
        mesh.set_norm(norm)
    if meshes:
        bar = figure.colorbar(meshes[0], ax=axes, label="elements per cell", aspect=40, pad=0.02)
        bar.outline.set_visible(False)  # type: ignore[operator]
    axes[0, 0].set_ylabel(f"predicted ({elements.unit})")
    axes[1, 0].set_ylabel("error (meV)")
    figure.align_ylabels(axes[:, 0])
    if title:
        figure.suptitle(title)
    return figure


def _draw(
    top: Axes,
    bottom: Axes,
    true: Inexact[np.ndarray, " elements"],
    predicted: Inexact[np.ndarray, " elements"],
    mev: float,
) -> list[QuadMesh]:
    summary = _summary(true, predicted, mev)
    true, predicted = true.real, predicted.real
    error = (predicted - true) * mev
    low, high = min(true.min(), predicted.min()), max(true.max(), predicted.max())
    margin = 0.03 * max(high - low, 1e-6)
    span = (float(low - margin), float(high + margin))
    parity = _density(top, true, predicted, span, span)
    top.plot(span, span, color="black", linewidth=0.7, zorder=1)
    top.text(0.04, 0.96, summary, transform=top.transAxes, va="top", fontsize=8)
    largest = max(float(np.abs(error).max()), 1e-6) * 1.05
    errors = _density(bottom, true, error, span, (-largest, largest))
    bottom.axhline(0, color="black", linewidth=0.7, zorder=1)
    for ax in (top, bottom):
        ax.set_xlim(span)
        grid(ax, "both")
    top.set_ylim(span)
    bottom.set_ylim(-largest, largest)
    return [parity, errors]


def _density(
    ax: Axes,
    x: Float[np.ndarray, " elements"],
    y: Float[np.ndarray, " elements"],
    x_span: tuple[float, float],
    y_span: tuple[float, float],
) -> QuadMesh:
    counts, x_edges, y_edges = np.histogram2d(x, y, bins=BINS, range=(x_span, y_span))
    return ax.pcolormesh(
        x_edges,
        y_edges,
        np.ma.masked_equal(counts.T, 0),
        cmap=_COLOURS,
        rasterized=True,
        linewidth=0,
        zorder=2,
        vmin=1,
        vmax=counts.max(),
    )


def _summary(
    true: Inexact[np.ndarray, " elements"], predicted: Inexact[np.ndarray, " elements"], mev: float
) -> str:
    """Text with the MAE over elements and R^2 (relative to the mean of the true elements)."""
    error = np.abs(predicted - true)
    residual = np.square(error).sum()
    variance = np.square(np.abs(true - true.mean())).sum()
    text = f"MAE {three_digits(float(error.mean()) * mev)} meV (over elements)\n"
    if not variance > 0:
        return text + "$R^2$ undefined: all true elements are equal"
    missing = residual / variance
    if 0 < missing < 1e-3:
        # R^2 would be rounded to 1.0000.
        power = int(np.floor(np.log10(missing)))
        return text + rf"$R^2 = 1 - {missing / 10.0**power:.1f} \times 10^{{{power}}}$"
    return text + f"$R^2 = {1 - missing:.4f}$"
