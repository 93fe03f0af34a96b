"""Figures of a Hamiltonian matrix, its prediction and the error, with the blocks outlined (Fig. 2 of the paper)."""

import numpy as np
from jaxtyping import Float, Inexact, Int
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, SymLogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from tracegrad.elements import SYMBOLS, formula
from tracegrad.errors import DataError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.plots.style import make_figure, styled, three_digits
from tracegrad.units import MEV

LINEAR_BELOW = 1e-2  # in the unit of H; the colour scale of H is logarithmic above
ERROR_DECADES = 3  # of the colour scale of the error
MOST_SHELL_LINES = 130  # orbitals; of larger matrices only the lines between atoms are drawn
MOST_LABELS = 14  # labels of atoms on an axis


@styled
def hamiltonian_figure(
    numbers: Int[np.ndarray, " atoms"],
    true: Inexact[np.ndarray, "n n"],
    predicted: Inexact[np.ndarray, "n n"],
    basis: OrbitalBasis,
    title: str = "",
) -> Figure:
    """True H, predicted H (unit and orbital order of the files), and their absolute difference in meV.

    For complex matrices the real parts are drawn, and the modulus of the difference. NaN marks blocks that a crystal
    does not have; they stay blank and do not enter the MAE.

    Args:
        numbers: atomic numbers.
        true: Hamiltonian of the database.
        predicted: Hamiltonian of a model.
        basis: orbital basis of both matrices, which determines the blocks.
        title: precedes the formula and the MAE.

    Raises:
        DataError: the shapes of the matrices do not fit the atoms.
    """
    basis.check(numbers, "figure of a Hamiltonian")
    orbitals = int(basis.sizes[numbers].sum())
    if true.shape != (orbitals, orbitals) or predicted.shape != true.shape:
        raise DataError(
            f"figure of a Hamiltonian: {orbitals} orbitals need matrices of shape {(orbitals, orbitals)}, "
            f"not {true.shape} (true) and {predicted.shape} (predicted)"
        )
    error = np.abs(predicted - true) * MEV[basis.unit]
    part = "Re " if np.iscomplexobj(true) else ""
    true, predicted = true.real, predicted.real
    figure = make_figure(9.6, 4.15)
    axes = figure.subplots(1, 3)
    largest = max(*(float(np.nanmax(np.abs(h))) for h in (true, predicted)), 10 * LINEAR_BELOW)
    diverging = SymLogNorm(LINEAR_BELOW, vmin=-largest, vmax=largest)
    extent = (0, orbitals, orbitals, 0)
    for ax, matrix, name in (
        (axes[0], true, f"true {part}$H$"),
        (axes[1], predicted, f"predicted {part}$H$"),
    ):
        image = ax.imshow(matrix, norm=diverging, cmap="RdBu_r", extent=extent)
        ax.set_title(name)
    bar = figure.colorbar(image, ax=list(axes[:2]), location="bottom", shrink=0.6, aspect=45, pad=0.02)
    bar.set_label(basis.unit)
    ticks = _ticks(largest)
    bar.ax.xaxis.set_major_locator(FixedLocator([-tick for tick in ticks[::-1]] + [0.0, *ticks]))
    bar.ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "\u2212")))
    bar.ax.xaxis.set_minor_locator(NullLocator())
    top = max(float(np.nanmax(error)), 1e-9)
    image = axes[2].imshow(
        np.maximum(error, top / 10**ERROR_DECADES),
        norm=LogNorm(top / 10**ERROR_DECADES, top),
        cmap="YlOrRd",
        extent=extent,
    )
    axes[2].set_title("absolute error")
    bar = figure.colorbar(image, ax=axes[2], location="bottom", shrink=0.9, aspect=32, pad=0.02, extend="min")
    bar.set_label("meV")
    for ax in axes:
        _draw_blocks(ax, numbers, basis)
    start = f"{title}, " if title else ""
    figure.suptitle(
        f"{start}{_subscripts(formula(numbers))}: MAE {three_digits(float(np.nanmean(error)))} meV"
    )
    return figure


def _draw_blocks(ax: Axes, numbers: Int[np.ndarray, " atoms"], basis: OrbitalBasis) -> None:
    sizes = basis.sizes[numbers]
    ends = np.cumsum(sizes)
    starts = ends - sizes
    orbitals = int(ends[-1])
    if orbitals <= MOST_SHELL_LINES:
        lines = np.concatenate(
            [
                start + np.cumsum([2 * degree + 1 for degree in basis.shells[int(z)] * basis.spins])[:-1]
                for z, start in zip(numbers, starts, strict=True)
            ]
        )
        _lines(ax, lines, orbitals, color="black", linewidth=0.3, alpha=0.35)
    _lines(ax, ends[:-1], orbitals, color="black", linewidth=0.9 if len(numbers) <= 12 else 0.5)
    symbols = [SYMBOLS[z] + str(i) for i, z in enumerate(numbers, start=1)]
    every = -(-len(numbers) // MOST_LABELS)
    size = 8.0 if len(numbers) <= 8 else 6.5
    middles = (starts + ends) / 2
    ax.set_xticks(middles[::every], symbols[::every], fontsize=size, rotation=0 if len(numbers) <= 8 else 90)
    ax.set_yticks(middles[::every], symbols[::every], fontsize=size)
    ax.tick_params(length=0, pad=2)
    ax.spines[:].set_visible(True)
    ax.set_xlim(0, orbitals)
    ax.set_ylim(orbitals, 0)


def _lines(
    ax: Axes, positions: Float[np.ndarray, " lines"] | Int[np.ndarray, " lines"], end: int, **look: object
) -> None:
    ax.vlines(positions, 0, end, **look)  # type: ignore[arg-type]
    ax.hlines(positions, 0, end, **look)  # type: ignore[arg-type]


def _ticks(largest: float) -> list[float]:
    top = int(np.floor(np.log10(largest)))
    return [10.0**power for power in range(int(np.log10(LINEAR_BELOW)), top + 1)]


def _subscripts(text: str) -> str:
    return "".join(f"$_{{{letter}}}$" if letter.isdigit() else letter for letter in text).replace("}$$_{", "")
