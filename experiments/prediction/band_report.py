"""What is reported about bands and their errors: lines of text, and plain data for ``bands.json``."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from tracegrad.physics.bands.band_errors import BandErrors
from tracegrad.physics.bands.bands import BandStructure, band_gap, is_one_sided
from tracegrad.physics.bands.kpath import KPath


def bands_summary(bands: BandStructure, axes: str, *, spin: str | None = None) -> dict[str, Any]:
    """Bands along a path as plain data.

    Args:
        axes: along which the structure is periodic.
        spin: whose bands they are; None: those of all electrons.
    """
    return {
        "structure": bands.name,
        "orbitals": bands.total,
        "fermi_level_eV": bands.fermi_level,
        "periodic_axes": axes,
        "path": bands.path.name,
        "special_points": [
            {"name": name, "distance_per_angstrom": distance} for distance, name in bands.path.ticks
        ],
        "points": len(bands.path.points),
        "bands": [bands.first + 1, bands.first + bands.energies.shape[1]],
        "smallest_eigenvalue_of_S": bands.smallest_overlap,
        "projected_out": bands.dropped,
        "ghost_states": bands.ghosts,
        "gap": gap_summary(bands, spin=spin),
    }


def gap_summary(
    bands: BandStructure, occupied: int | None = None, *, spin: str | None = None
) -> dict[str, Any] | None:
    """The gap as plain data, with its k-points as text; None: all bands of a spin are empty, or all are occupied.

    Args:
        occupied: see `tracegrad.physics.bands.bands.band_gap`.
        spin: whose bands they are; None: those of all electrons, some of which are occupied and others empty.
    """
    if spin is not None and is_one_sided(bands):
        return None
    values = asdict(band_gap(bands, occupied))
    for name in ("valence", "conduction", "direct"):
        point = values.pop(f"{name}_point")
        values[f"{name}_at"] = None if point is None else _point_name(bands.path, point)
    return values


def _point_name(path: KPath, point: int) -> str:
    """Name of a special point, or k in units of the reciprocal lattice."""
    for distance, name in path.ticks:
        if abs(path.distances[point] - distance) < 1e-9:
            return name
    return "(" + ", ".join(f"{value:.3f}" for value in path.points[point] + 0.0) + ")"


def occupied_bands(gap: Mapping[str, Any] | None) -> int | None:
    """The number of occupied bands of a `gap_summary`; None if there is no gap."""
    return None if gap is None or gap["metal"] else int(gap["bands"][0])


def gap_line(what: str, gap: Mapping[str, Any] | None) -> str:
    """A line about a gap, a `gap_summary`; ``what`` are words for it."""
    if gap is None:
        return f"{what}: none, all its bands are on one side of the Fermi level"
    first, last = gap["bands"]
    if gap["metal"]:
        crossing = f"band {first} crosses" if first == last else f"bands {first} to {last} cross"
        return f"{what}: none, {crossing} the Fermi level or each other"
    valence = f"{gap['valence_at']} ({gap['valence']:.4f} eV, band {first})"
    conduction = f"{gap['conduction_at']} ({gap['conduction']:.4f} eV)"
    return (
        f"{what}: {gap['gap']:.4f} eV from {valence} to {conduction}; direct {gap['direct_gap']:.4f} eV at "
        f"{gap['direct_at']}; band edges change by up to {gap['step']:.4f} eV between neighbouring points"
    )


def errors_summary(errors: BandErrors) -> dict[str, Any]:
    """Errors of predicted bands as plain data."""

    def extra(counts: np.ndarray) -> dict[str, int]:
        return {
            "fewest": int(counts.min()),
            "most": int(counts.max()),
            "points_that_differ": int((counts != 0).sum()),
        }

    return {
        "window_eV": list(errors.window),
        "states": errors.states,
        "eigenvalues_meV": asdict(errors.eigenvalues),
        "first_order_meV": asdict(errors.first_order),
        "extra_states": extra(errors.extra),
        "aligned_extra_states": extra(errors.aligned_extra),
    }


def error_lines(errors: BandErrors) -> str:
    """Lines about errors of predicted bands."""
    low, high = errors.window
    lines = [f"errors of {errors.states} states from {low:.2f} to {high:.2f} eV, meV:"]
    for name, one in (("eigenvalues", errors.eigenvalues), ("first order", errors.first_order)):
        lines.append(
            f"  {name}: MAE {one.mae:.3f}, max {one.max:.3f}; without the mean ({one.mean:+.3f}) "
            f"MAE {one.aligned_mae:.3f}, max {one.aligned_max:.3f}"
        )
    for name, counts in (("", errors.extra), (", without the mean", errors.aligned_extra)):
        lines.append(
            f"  predicted minus true number of states in the window{name}: {counts.min():+d} to {counts.max():+d}"
        )
    return "\n".join(lines)
