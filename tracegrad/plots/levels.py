"""Figures of the orbital energies of a molecule: a ladder of horizontal lines for each method."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tracegrad.errors import TraceGradError
from tracegrad.physics.dos.density import DensityOfStates
from tracegrad.physics.molecules.levels import MolecularLevels
from tracegrad.plots.densities import draw_densities
from tracegrad.plots.style import LIGHT, SERIES_COLOURS, grid, make_figure, styled
from tracegrad.units import MEV

_OCCUPIED, _VIRTUAL = SERIES_COLOURS[0], SERIES_COLOURS[1]
_EV = MEV["hartree"] / MEV["eV"]
_VALENCE = 28.0  # eV below the HOMO; all levels further below are core levels of C, N, O and F
_ABOVE = 8.0  # eV above the LUMO
_WIDE_GAP = 0.08  # fraction of the window; a line of text fits into a wider gap
_NEXT_TO: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7.5}
_WIDTH, _SPACE = 0.6, 0.05  # width of a ladder, and space between levels side by side


@styled
def levels_figure(
    ladders: Mapping[str, MolecularLevels],
    *,
    title: str = "",
    window: tuple[float, float] | None = None,
    together: float = 0.03,
    densities: Sequence[DensityOfStates] = (),
) -> Figure:
    """Occupied and unoccupied levels in eV with the HOMO-LUMO gap of each ladder.

    Args:
        ladders: name of each ladder -> its levels, from left to right.
        title: name of the molecule.
        window: eV; None: the valence levels, and levels up to 8 eV above the highest LUMO. The number of levels below
            the window is written in the figure.
        together: eV; levels that are closer than this to the next one are drawn side by side.
        densities: densities of states, drawn beside the levels: one, or that of DFT and that of the prediction.

    Raises:
        TraceGradError: there is no ladder, or the window is empty.
    """
    if not ladders:
        raise TraceGradError("no levels to draw; give at least one ladder")
    low, high = window or valence_window(list(ladders.values()))
    if not low < high:
        raise TraceGradError(f"window is {[low, high]}; give two numbers in eV, the lower one first")
    width = 2.0 + 1.7 * len(ladders)
    if densities:
        figure = make_figure(width + 3.4, 4.6)
        ax, beside = figure.subplots(1, 2, sharey=True, width_ratios=(width, 2.4))
        labels = ("total",) if len(densities) == 1 else ("DFT, total", "predicted, total")
        draw_densities(beside, densities, unit="states / eV", labels=labels)
    else:
        figure = make_figure(width, 4.6)
        ax = figure.subplots()
    grid(ax)
    for place, levels in enumerate(ladders.values()):
        _draw(ax, place, levels, (low, high), together)
        below = int((levels.energies * _EV < low).sum())
        if below:
            ax.annotate(
                f"{below} below",
                (place, 0.0),
                xycoords=("data", "axes fraction"),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=7,
                color="#6e6e6e",
            )
    ax.set_xticks(range(len(ladders)), list(ladders))
    ax.tick_params(axis="x", length=0)
    ax.set_xlim(-0.55, len(ladders) - 1 + 0.95)
    ax.set_ylim(low, high)
    ax.set_ylabel("orbital energy (eV)")
    for label, colour in (("occupied", _OCCUPIED), ("unoccupied", _VIRTUAL)):
        ax.plot([], [], color=colour, label=label)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    if title:
        ax.set_title(title, loc="left")
    return figure


def groups(energies: Float[np.ndarray, " levels"], together: float) -> list[Float[np.ndarray, " group"]]:
    """Ascending energies in groups whose neighbouring energies differ by at most ``together``."""
    return np.split(energies, np.flatnonzero(np.diff(energies) > together) + 1)


def valence_window(ladders: Sequence[MolecularLevels]) -> tuple[float, float]:
    """Energies (eV) from below the valence levels to above the highest LUMO."""
    lowest = []
    for levels in ladders:
        energies = levels.energies * _EV
        lowest.append(float(energies[energies > levels.homo * _EV - _VALENCE].min()))
    return min(lowest) - 2.0, max(levels.lumo for levels in ladders) * _EV + _ABOVE


def _draw(
    ax: Axes, place: int, levels: MolecularLevels, window: tuple[float, float], together: float
) -> None:
    energies = levels.energies * _EV
    for colour, part in (
        (_OCCUPIED, energies[: levels.occupied]),
        (_VIRTUAL, energies[levels.occupied :]),
    ):
        for group in groups(part[(part >= window[0]) & (part <= window[1])], together):
            width = (_WIDTH - _SPACE * (len(group) - 1)) / max(len(group), 1)
            for k, energy in enumerate(group):
                left = place - _WIDTH / 2 + k * (width + _SPACE)
                ax.hlines(energy, left, left + width, color=colour, linewidth=1.4)
    homo, lumo = levels.homo * _EV, levels.lumo * _EV
    gap = f"gap {lumo - homo:.2f}"
    wide = lumo - homo > _WIDE_GAP * (window[1] - window[0])
    below = f"HOMO {homo:.2f}" + ("" if wide else f"\n{gap}")
    for text, energy, alignment in ((below, homo, "top"), (f"LUMO {lumo:.2f}", lumo, "bottom")):
        ax.annotate(text, (place + _WIDTH / 2, energy), va=alignment, xytext=(3, 0), **_NEXT_TO)
    if wide:
        arrow = {"arrowstyle": "<->", "color": LIGHT, "linewidth": 1.0, "shrinkA": 1, "shrinkB": 1}
        ax.annotate("", (place, lumo), (place, homo), arrowprops=arrow)
        ax.annotate(gap, (place, (homo + lumo) / 2), va="center", xytext=(4, 0), **_NEXT_TO)
