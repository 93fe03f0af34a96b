"""Errors of the bands of a predicted Hamiltonian H'; both eigenproblems use the overlap S of the structure.

H' + mu S shifts all bands by mu, which changes no observable at a fixed number of electrons. Errors are therefore
reported twice: as they are, and "aligned", after their mean has been subtracted.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64

from tracegrad.data.crystal_files.deeph import read_keyed, read_structure
from tracegrad.data.crystals.structure import Structure, check_structure
from tracegrad.errors import ConfigError, DataError
from tracegrad.physics.bands.bands import BandStructure, PredictedBands
from tracegrad.units import MEV

_SAME_PLACE = 1e-3  # angstrom, tolerance of positions and lattice vectors of the same structure


@dataclass(frozen=True)
class EnergyDeviation:
    """Differences between energies of the same states, meV; "aligned": after their mean has been subtracted."""

    mean: float
    mae: float
    max: float
    aligned_mae: float
    aligned_max: float


@dataclass(frozen=True)
class BandErrors:
    """Errors of predicted bands over all states of the structure in a window of energies.

    Args:
        window: eV, from the Fermi level; narrower than the requested one if bands at its edges were not computed.
        states: number of states in the window, over all points.
        eigenvalues: differences between the eigenvalues of H' and H that have the same number, counted from below.
        first_order: <c|H' - H|c> of the states c of the structure, which does not depend on the order of eigenvalues.
        extra: at each point the number of predicted states minus that of the structure's states in the window. A
            positive number means ghost bands, or a state that has crossed the edge of the window.
        aligned_extra: the same after the mean of ``eigenvalues`` has been subtracted from the predicted energies.
    """

    window: tuple[float, float]
    states: int
    eigenvalues: EnergyDeviation
    first_order: EnergyDeviation
    extra: Int64[np.ndarray, " k"]
    aligned_extra: Int64[np.ndarray, " k"]


def with_hamiltonian(structure: Structure, source: str | Path) -> Structure:
    """The structure with the Hamiltonian of ``source``.

    Args:
        source: folder of the same structure, or a file with the keys of ``hamiltonians.h5``.

    Raises:
        DataError: the source cannot be read, or belongs to another structure.
    """
    source = Path(source)
    if source.is_file():
        edges, entries = read_keyed(source, structure.numbers, structure.basis)
        _check_same(str(source), edges, structure.edges, "pairs of atoms in its blocks")
        predicted = replace(structure, hamiltonian=entries)
        check_structure(predicted, str(source))
        return predicted
    other = read_structure(source)
    _check_same(str(source), other.numbers, structure.numbers, "atoms")
    for what in ("lattice", "positions"):
        distance = np.abs(getattr(other, what) - getattr(structure, what)).max()
        if distance > _SAME_PLACE:
            raise DataError(
                f"{source}: the {what} differ by {distance:.1e} angstrom from {structure.name}; "
                "predict the same structure"
            )
    for what, value, expected in (
        ("shells", other.shells, structure.shells),
        ("isspinful", other.spinful, structure.spinful),
    ):
        if value != expected:
            raise DataError(f"{source}: {what} is {value}, but {expected} in {structure.name}; use one basis")
    _check_same(str(source), other.edges, structure.edges, "pairs of atoms in its blocks")
    return replace(structure, hamiltonian=other.hamiltonian)


def _check_same(where: str, values: np.ndarray, expected: np.ndarray, what: str) -> None:
    if not np.array_equal(values, expected):
        raise DataError(f"{where}: other {what} than the structure has; predict the same structure")


def band_errors(bands: BandStructure, prediction: PredictedBands, window: tuple[float, float]) -> BandErrors:
    """Errors of the predicted bands over all states of the structure within ``window`` (eV, from the Fermi level).

    States count that were computed for both Hamiltonians; the window is narrowed to the energies in which this holds
    at all points.

    Raises:
        ConfigError: the window is empty, or no computed state is in it.
    """
    if not window[0] < window[1]:
        raise ConfigError(f"window is {list(window)}; give two numbers in eV, the lower one first")
    both = (bands, prediction.bands)
    energies, predicted = (one.energies - bands.fermi_level for one in both)
    low, high = window
    for one, levels in zip(both, (energies, predicted), strict=True):
        if one.first > 0:
            low = max(low, float(levels[:, 0].max()))
        if one.first + levels.shape[1] < one.total:
            high = min(high, float(levels[:, -1].min()))
    first = max(one.first for one in both)
    last = min(one.first + one.energies.shape[1] for one in both)
    # Columns of the bands that were computed for both Hamiltonians.
    in_structure = slice(first - bands.first, last - bands.first)
    in_prediction = slice(first - prediction.bands.first, last - prediction.bands.first)
    inside = (low <= energies[:, in_structure]) & (energies[:, in_structure] <= high)
    if not inside.any():
        raise ConfigError(
            f"{bands.name}: none of the bands {first + 1} to {last} is between {low:.3f} and {high:.3f} eV from the "
            f"Fermi level at any point (window {list(window)}); set another window or more bands"
        )
    eigenvalues = _deviation((predicted[:, in_prediction] - energies[:, in_structure])[inside])

    def extra(levels: Float[np.ndarray, "k bands"]) -> Int64[np.ndarray, " k"]:
        counts = [((low <= table) & (table <= high)).sum(1) for table in (levels, energies)]
        return counts[0] - counts[1]

    return BandErrors(
        window=(low, high),
        states=int(inside.sum()),
        eigenvalues=eigenvalues,
        first_order=_deviation(prediction.first_order[:, in_structure][inside]),
        extra=extra(predicted),
        aligned_extra=extra(predicted - eigenvalues.mean / MEV["eV"]),
    )


def _deviation(differences: Float[np.ndarray, " states"]) -> EnergyDeviation:
    """Statistics (meV) of differences in eV."""
    values = MEV["eV"] * differences
    mean = values.mean()
    aligned = np.abs(values - mean)
    return EnergyDeviation(
        mean=float(mean),
        mae=float(np.abs(values).mean()),
        max=float(np.abs(values).max()),
        aligned_mae=float(aligned.mean()),
        aligned_max=float(aligned.max()),
    )
