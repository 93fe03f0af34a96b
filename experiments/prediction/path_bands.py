"""Bands along a path of an H and of its prediction, of one spin or of all electrons, with a printed summary."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.prediction.band_report import (
    bands_summary,
    error_lines,
    errors_summary,
    gap_line,
    gap_summary,
    occupied_bands,
)
from experiments.prediction.zone import dropped_line, ghost_line
from tracegrad.data.crystals.structure import Structure
from tracegrad.physics.bands.band_errors import band_errors
from tracegrad.physics.bands.bands import (
    SMALL_OVERLAP,
    BandStructure,
    PredictedBands,
    band_structure,
    both_spins,
)
from tracegrad.physics.bands.kpath import KPath
from tracegrad.system.progress import ProgressDisplay
from tracegrad.units import MEV


@dataclass(frozen=True, eq=False)
class SpinHamiltonian:
    """H of one spin, or of all electrons (spin None), and a prediction of it."""

    spin: str | None
    structure: Structure
    predicted: Structure | None
    source: str


@dataclass(frozen=True, eq=False)
class PathResult:
    """Bands of one spin, or of all electrons (spin None).

    Args:
        spin: of the bands.
        bands: along the path.
        prediction: bands of a prediction.
        shown: the same for the figure, shifted if this is asked for.
        shift: this shift, eV.
        summary: plain data for ``bands.json``.
    """

    spin: str | None
    bands: BandStructure
    prediction: PredictedBands | None
    shown: BandStructure | None
    shift: float
    summary: dict[str, Any]


def along_path(
    one: SpinHamiltonian,
    path: KPath,
    level: float | None,
    values: Mapping[str, Any],
    window: tuple[float, float],
    processes: int | None,
    axes: str,
    gap: str,
    progress: ProgressDisplay,
) -> PathResult:
    """Compute the bands of an H and of its prediction, and print a summary.

    Args:
        level: Fermi level, eV; None: that of the structure.
        values: settings.
        window: energies of errors relative to the Fermi level, eV.
        processes: see `band_structure`.
        axes: along which the structure is periodic.
        gap: words for the gap.
    """
    bands, prediction = band_structure(
        one.structure,
        path,
        predicted=one.predicted,
        fermi_level=level,
        bands=values["bands"],
        processes=processes,
        threshold=float(values["overlap_threshold"]),
        on_progress=progress.bar(one.structure.name),
    )
    progress.report(
        f"{bands.name}: {len(one.structure.numbers)} atoms, {bands.total} orbitals, path {path.name} "
        f"({len(path.points)} points), periodic along {axes or 'no axis'}, Fermi level {bands.fermi_level:.4f} eV"
    )
    if bands.smallest_overlap < SMALL_OVERLAP:
        progress.report(
            f"warning: the smallest eigenvalue of S(k) is {bands.smallest_overlap:.1e}: "
            "the basis is nearly linearly dependent, so that high bands amplify errors of H"
        )
    if bands.dropped:
        progress.report(dropped_line(bands.dropped, bands.total, values["overlap_threshold"]))
    if bands.ghosts:
        progress.report(ghost_line(bands.ghosts))
    summary = bands_summary(bands, axes, spin=one.spin)
    progress.report(gap_line(gap, summary["gap"]))
    if prediction is None:
        return PathResult(one.spin, bands, None, None, 0.0, summary)
    errors = band_errors(bands, prediction, window)
    summary["predicted"] = {
        "source": Path(one.source).name,
        "gap": gap_summary(prediction.bands, occupied_bands(summary["gap"]), spin=one.spin),
        "errors": errors_summary(errors),
    }
    progress.report(gap_line("predicted gap", summary["predicted"]["gap"]))
    progress.report(error_lines(errors))
    if prediction.bands.ghosts:
        progress.report(f"predicted: {ghost_line(prediction.bands.ghosts)}")
    shift = errors.eigenvalues.mean / MEV["eV"] if values["align"] else 0.0
    shown = replace(prediction.bands, energies=prediction.bands.energies - shift)
    return PathResult(one.spin, bands, prediction, shown, shift, summary)


def summary_of_both(name: str, found: Sequence[PathResult], axes: str) -> dict[str, Any]:
    """Both spins together as plain data: their gap, where a band holds one electron, and the summary of each."""
    together = both_spins([one.bands for one in found], name)
    summary = bands_summary(together, axes) | {"spins": {one.spin: one.summary for one in found}}
    predictions = [one.prediction.bands for one in found if one.prediction is not None]
    if predictions:
        gap = gap_summary(both_spins(predictions, name), occupied_bands(summary["gap"]))
        summary["predicted"] = {"gap": gap}
    return summary
