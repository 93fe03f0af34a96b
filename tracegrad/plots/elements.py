"""True against predicted matrix elements, with the distribution of the errors below."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from tracegrad.basis import OrbitalBasis
from tracegrad.errors import TraceGradError
from tracegrad.plots.style import grid, make_figure, styled, three_digits
from tracegrad.units import MEV_PER_HARTREE

BINS = 110
_COLOURS = "viridis"


@dataclass(frozen=True)
class Elements:
    """Matrix elements of molecules, true and predicted, hartree."""

    true_on_site: Float[np.ndarray, " on_site"]
    predicted_on_site: Float[np.ndarray, " on_site"]
    true_pairs: Float[np.ndarray, " pairs"]
    predicted_pairs: Float[np.ndarray, " pairs"]


def matrix_elements(
    molecules: Iterable[tuple[Int[np.ndarray, " _"], Float[np.ndarray, "_ _"], Float[np.ndarray, "_ _"]]],
    basis: OrbitalBasis,
) -> Elements:
    """Elements of (numbers, true H, predicted H): blocks of an atom with itself, and of different atoms."""
    parts: tuple[list[np.ndarray], ...] = ([], [], [], [])
    for numbers, true, predicted in molecules:
        atom = np.repeat(np.arange(len(numbers)), basis.sizes[numbers])
        on_site = atom[:, None] == atom[None]
        for part, values in zip(
            parts, (true[on_site], predicted[on_site], true[~on_site], predicted[~on_site]), strict=True
        ):
            part.append(values)
    if not parts[0]:
        raise TraceGradError("a figure of matrix elements needs at least one molecule")
    return Elements(*(np.concatenate(part) for part in parts))


@styled
def elements_figure(elements: Elements, title: str = "") -> Figure:
    """On-site and pair elements: predicted over true (hartree), and the error (meV) over true."""
    figure = make_figure(7.4, 5.0)
    axes = figure.subplots(2, 2, height_ratios=(5, 2), sharex="col")
    panels = (
        ("on-site blocks", elements.true_on_site, elements.predicted_on_site),
        ("pair blocks", elements.true_pairs, elements.predicted_pairs),
    )
    meshes = []
    for (top, bottom), (name, true, predicted) in zip(axes.T, panels, strict=True):
        top.set_title(f"{name} ({true.size:,} elements)")
        bottom.set_xlabel("true (hartree)")
        if true.size:
            meshes += _draw(top, bottom, true, predicted)
    norm = LogNorm(1, max([10, *(mesh.get_clim()[1] or 0 for mesh in meshes)]))
    for mesh in meshes:
        mesh.set_norm(norm)
    if meshes:
        bar = figure.colorbar(meshes[0], ax=axes, label="elements per cell", aspect=40, pad=0.02)
        bar.outline.set_visible(False)  # type: ignore[operator]
    axes[0, 0].set_ylabel("predicted (hartree)")
    axes[1, 0].set_ylabel("error (meV)")
    figure.align_ylabels(axes[:, 0])
    if title:
        figure.suptitle(title)
    return figure


def _draw(
    top: Axes,
    bottom: Axes,
    true: Float[np.ndarray, " elements"],
    predicted: Float[np.ndarray, " elements"],
) -> list[QuadMesh]:
    error = (predicted - true) * MEV_PER_HARTREE
    low, high = min(true.min(), predicted.min()), max(true.max(), predicted.max())
    margin = 0.03 * max(high - low, 1e-6)
    span = (float(low - margin), float(high + margin))
    parity = _density(top, true, predicted, span, span)
    top.plot(span, span, color="black", linewidth=0.7, zorder=1)
    top.text(0.04, 0.96, _summary(true, error), transform=top.transAxes, va="top", fontsize=8)
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


def _summary(true: Float[np.ndarray, " elements"], error: Float[np.ndarray, " elements"]) -> str:
    """MAE over elements, and R^2 against the mean of the true elements."""
    residual = np.square(error / MEV_PER_HARTREE).sum()
    variance = np.square(true - true.mean()).sum()
    text = f"MAE {three_digits(float(np.abs(error).mean()))} meV (over elements)\n"
    if not variance > 0:
        return text + "$R^2$ undefined: all true elements are equal"
    missing = residual / variance
    if 0 < missing < 1e-3:
        # Rounded to 1.000 it would say nothing.
        power = int(np.floor(np.log10(missing)))
        return text + rf"$R^2 = 1 - {missing / 10.0**power:.1f} \times 10^{{{power}}}$"
    return text + f"$R^2 = {1 - missing:.4f}$"
