"""Figures of band structures along a path, with the bands of a predicted Hamiltonian on top."""

import re

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tracegrad.errors import TraceGradError
from tracegrad.physics.bands.bands import BandStructure
from tracegrad.physics.bands.kpath import KPath
from tracegrad.plots.style import LIGHT, OTHER_COLOUR, SERIES_COLOURS, make_figure, styled

_PREDICTED = SERIES_COLOURS[1]


@styled
def bands_figure(
    bands: BandStructure,
    predicted: BandStructure | None = None,
    *,
    window: tuple[float, float] = (-2.0, 2.0),
    title: str = "",
    labels: tuple[str, str] = ("DFT", "predicted"),
) -> Figure:
    """Bands within ``window`` (eV, from the Fermi level of ``bands``); predicted bands are dashed and on top.

    Raises:
        TraceGradError: the window is empty.
    """
    if not window[0] < window[1]:
        raise TraceGradError(f"window is {list(window)}; give two numbers in eV, the lower one first")
    figure = make_figure(4.4, 4.0)
    ax = figure.subplots()
    _frame(ax, bands.path, window)
    colours = {"color": OTHER_COLOUR, "linewidth": 1.1, "zorder": 2.0}
    _draw(ax, bands, bands.fermi_level, window, labels[0], **colours)
    if predicted is not None:
        colours = {"color": _PREDICTED, "linewidth": 1.1, "zorder": 3.0}
        _draw(ax, predicted, bands.fermi_level, window, labels[1], linestyle=(0, (3.5, 1.8)), **colours)
        figure.legend(*ax.get_legend_handles_labels(), loc="outside upper right", ncols=2, handlelength=2.4)
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
