"""Figures of band structures along a path, with the bands of a predicted Hamiltonian on top."""

import re
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tracegrad.errors import TraceGradError
from tracegrad.hamiltonian.basis import SPINS
from tracegrad.physics.bands.bands import BandStructure
from tracegrad.physics.bands.kpath import KPath
from tracegrad.physics.dos.density import DensityOfStates
from tracegrad.plots.densities import draw_densities
from tracegrad.plots.style import LIGHT, OTHER_COLOUR, SERIES_COLOURS, make_figure, styled

_PREDICTED = SERIES_COLOURS[1]
_SPIN_COLOURS = SERIES_COLOURS[1::-1]  # up, down


@styled
def bands_figure(
    bands: BandStructure,
    predicted: BandStructure | None = None,
    *,
    down: tuple[BandStructure, BandStructure | None] | None = None,
    window: tuple[float, float] = (-2.0, 2.0),
    title: str = "",
    labels: tuple[str, str] = ("DFT", "predicted"),
    densities: Sequence[DensityOfStates] = (),
) -> Figure:
    """Bands within ``window`` (eV, from the Fermi level of ``bands``); predicted bands are dashed and on top.

    Args:
        bands, predicted: along the same path.
        down: the same for spin down, if ``bands`` and ``predicted`` are those of spin up; each spin has a colour.
        window: energies, eV.
        title: of the figure.
        labels: of the bands in the legend, if there are predicted ones.
        densities: densities of states of ``bands`` and of ``predicted``, drawn beside the bands.

    Raises:
        TraceGradError: the window is empty.
    """
    if not window[0] < window[1]:
        raise TraceGradError(f"window is {list(window)}; give two numbers in eV, the lower one first")
    beside = None
    if densities:
        figure = make_figure(7.0, 4.0)
        ax, beside = figure.subplots(1, 2, sharey=True, width_ratios=(1.9, 1.0))
    else:
        figure = make_figure(4.4, 4.0)
        ax = figure.subplots()
    _frame(ax, bands.path, window)
    if down is None:
        drawn = [(bands, predicted, "", OTHER_COLOUR, _PREDICTED)]
    else:
        up_down = zip(((bands, predicted), down), SPINS, _SPIN_COLOURS, strict=True)
        drawn = [(*pair, f" {spin}", colour, colour) for pair, spin, colour in up_down]
    for true, other, spin, colour, colour_of_other in drawn:
        style = {"color": colour, "linewidth": 1.1, "zorder": 2.0}
        if other is not None and colour == colour_of_other:
            style |= {"alpha": 0.4, "linewidth": 2.2}
        _draw(ax, true, bands.fermi_level, window, labels[0] + spin, **style)
        if other is not None:
            style = {"color": colour_of_other, "linewidth": 1.1, "zorder": 3.0}
            _draw(ax, other, bands.fermi_level, window, labels[1] + spin, linestyle=(0, (3.5, 1.8)), **style)
    if predicted is not None or down is not None:
        handles = ax.get_legend_handles_labels()
        if predicted is None:
            handles = handles[0], [label.removeprefix(labels[0]).strip() for label in handles[1]]
        figure.legend(*handles, loc="outside upper right", ncols=2, handlelength=2.4)
    if beside is not None:
        draw_densities(beside, densities, bands.fermi_level, unit="states / eV / cell")
        beside.axhline(0.0, color="#6e6e6e", linewidth=0.7, linestyle=(0, (1, 2)), zorder=1)
    if title:
        ax.set_title(title, loc="left")
    return figure


def _frame(ax: Axes, path: KPath, window: tuple[float, float]) -> None:
    places = [distance for distance, _ in path.ticks]
    ax.set_xticks(places, [_symbol(name) for _, name in path.ticks])
    end = places[-1] or 1.0
    ax.set_xlim(0.0, end)
    ax.set_ylim(*window)
    ax.set_ylabel("$E - E_F$ (eV)")
    ax.vlines(places, *window, color=LIGHT, linewidth=0.7, zorder=1)
    ax.axhline(0.0, color="#6e6e6e", linewidth=0.7, linestyle=(0, (1, 2)), zorder=1)
    ax.spines[["top", "right"]].set_visible(True)
    ax.tick_params(axis="x", length=0)


def _draw(
    ax: Axes, bands: BandStructure, level: float, window: tuple[float, float], label: str, **style: object
) -> None:
    energies = bands.energies - level
    # Bands outside of the window are left out, because they would only enlarge a PDF.
    seen = (energies.max(0) >= window[0]) & (energies.min(0) <= window[1])
    jumps = np.flatnonzero(np.diff(bands.path.distances) == 0) + 1
    pieces = np.split(np.arange(len(energies)), jumps)
    for piece in pieces:
        marker = "_" if len(piece) == 1 else None
        lines = ax.plot(bands.path.distances[piece], energies[np.ix_(piece, seen)], marker=marker, **style)  # type: ignore[arg-type]
        if lines and label:
            lines[0].set_label(label)
            label = ""


def _symbol(name: str) -> str:
    """The names of special points as mathematics: G becomes Gamma, digits become subscripts."""
    parts = []
    for part in name.split(","):
        letters, digits = re.fullmatch(r"(\D+)(\d*)", part).groups()  # type: ignore[union-attr]
        letters = r"\Gamma" if letters == "G" else rf"\mathrm{{{letters}}}"
        parts.append(f"${letters}_{{{digits}}}$" if digits else f"${letters}$")
    return "|".join(parts)
