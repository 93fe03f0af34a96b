"""Figures of the convergence of self-consistent fields from predicted Hamiltonians and from standard guesses."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tracegrad.errors import TraceGradError
from tracegrad.physics.molecules.acceleration import PREDICTION, ScfRun
from tracegrad.physics.molecules.acceleration_results import Acceleration
from tracegrad.plots.style import LIGHT, OTHER_COLOUR, SERIES_COLOURS, grid, make_figure, styled
from tracegrad.units import MEV_PER_HARTREE

FLOOR = 1e-5  # meV; smaller errors are below the convergence threshold of the SCF and drawn at this value
BAND = (0.25, 0.75)  # quantiles
_MARKERS = ("D", "o", "s")
_COLOURS = (SERIES_COLOURS[2], SERIES_COLOURS[0], SERIES_COLOURS[1])


@styled
def scf_figure(results: Sequence[Acceleration], title: str = "") -> Figure:
    """Errors of the Fock matrix and of the energy against the cycle: medians and quartiles over molecules.

    A run that has ended keeps its last value. The dashed line is the MAE of the predictions themselves.

    Raises:
        TraceGradError: there is no molecule.
    """
    if not results:
        raise TraceGradError("a figure of SCF convergence needs at least one molecule")
    figure = make_figure(7.2, 3.4)
    left, right = figure.subplots(1, 2)
    starts: dict[str, Callable[[Acceleration], ScfRun]] = {PREDICTION: lambda result: result.prediction}
    for guess in results[0].guesses:
        starts[guess] = lambda result, guess=guess: result.guesses[guess]  # type: ignore[misc]
    length = max(len(run.errors) for result in results for run in result.runs)
    for (start, run_of), colour, marker in zip(starts.items(), _COLOURS, _MARKERS, strict=False):
        runs = [run_of(result) for result in results]
        cycles = np.mean([run.cycles for run in runs])
        label = f"{'predicted H' if start == PREDICTION else start} ({cycles:.1f} cycles)"
        focks = [run.errors for run in runs]
        energies = [
            np.abs(run.energies - result.converged_energy) for run, result in zip(runs, results, strict=True)
        ]
        for ax, curves in ((left, focks), (right, energies)):
            _draw(ax, curves, length, {"color": colour, "marker": marker, "label": label})
    levels = np.array([result.level for result in results]) * MEV_PER_HARTREE
    low, middle, high = np.quantile(levels, (BAND[0], 0.5, BAND[1]))
    left.axhspan(low, high, color=LIGHT, alpha=0.5, linewidth=0)
    left.axhline(middle, color=OTHER_COLOUR, linestyle="--", linewidth=1.0, label="MAE of the predicted H")
    left.set_ylabel("mean |$F_k - F_{ref}$| (meV)")
    right.set_ylabel("|$E_k - E_{converged}$| (meV)")
    for ax in (left, right):
        ax.set_yscale("log")
        ax.minorticks_off()
        ax.set_xlabel("SCF cycle k, counted from 0")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        grid(ax)
    handles = left.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=len(handles[0]))
    if title:
        figure.suptitle(title)
    return figure


def _draw(ax: Axes, curves: Sequence[Float[np.ndarray, " _"]], length: int, style: dict[str, str]) -> None:
    """Draw median and quartiles of curves (hartree); ``length`` is that of the longest curve of the figure."""
    held = np.stack([np.pad(curve, (0, length - len(curve)), mode="edge") for curve in curves])
    values = np.maximum(held * MEV_PER_HARTREE, FLOOR)
    # The curves end when the last run has ended.
    values = values[:, : max(len(curve) for curve in curves)]
    low, middle, high = np.quantile(values, (BAND[0], 0.5, BAND[1]), axis=0)
    cycles = np.arange(values.shape[1])
    ax.fill_between(cycles, low, high, color=style["color"], alpha=0.2, linewidth=0)
    ax.plot(cycles, middle, markersize=3.5, **style)  # type: ignore[arg-type]
