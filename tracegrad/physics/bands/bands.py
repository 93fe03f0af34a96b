"""Bands of crystals along a path, from H(R) and S(R), and their gap.

Gaps and band edges refer to the points of the path, not to the whole Brillouin zone. The files of the databases do
not contain the number of electrons, so the occupied bands are those below the Fermi level.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from threadpoolctl import threadpool_limits

from tracegrad.data.crystal_files.deeph import is_structure_folder, matrix_path, read_structure
from tracegrad.data.crystals.structure import Structure
from tracegrad.errors import ConfigError, DataError, TraceGradError
from tracegrad.physics.bands.band_gap import BandGap, gap_between
from tracegrad.physics.bands.bloch import EXTRA_STATES, KPointBands, KPointSolver
from tracegrad.physics.bands.dense import OVERLAP_THRESHOLD
from tracegrad.physics.bands.kpath import KPath
from tracegrad.system.cores import available_cores
from tracegrad.system.parallel import map_unordered
from tracegrad.system.workers import WorkerDied

LARGEST_DENSE = 1500  # orbitals; of larger structures only some bands are computed by default
BANDS_OF_LARGE = 60  # default number of bands of larger structures
SMALL_OVERLAP = 1e-4  # eigenvalue of S(k) below which the basis is nearly linearly dependent
# Orbitals cubed times points; below it, starting processes takes longer than the work.
_WORTH_PROCESSES = 1e10


@dataclass(frozen=True, eq=False)
class BandStructure:
    """Bands along a path.

    Args:
        name: of the structure.
        path: the points.
        energies: eV, ascending at each point; column j is band ``first`` + j, counted from 0.
        first: number of bands that lie below the computed ones.
        total: number of all bands, computed or not.
        fermi_level: eV.
        smallest_overlap: smallest eigenvalue of S(k) on the path.
        dropped: largest number of eigenvectors of S(k) that have been projected out at one point.
        ghosts: largest number of ghost states at one point.
    """

    name: str
    path: KPath
    energies: Float[np.ndarray, "k bands"]
    first: int
    total: int
    fermi_level: float
    smallest_overlap: float
    dropped: int = 0
    ghosts: int = 0


@dataclass(frozen=True, eq=False)
class PredictedBands:
    """The bands of a predicted Hamiltonian H' with the overlap of the structure.

    Args:
        bands: bands of H'.
        first_order: <c|H' - H|c> (eV) of the states c of the structure; rows and columns are those of the energies of
            the structure's bands.
    """

    bands: BandStructure
    first_order: Float[np.ndarray, "k bands"]


def read_for_bands(folder: str | Path) -> Structure:
    """Read a structure folder with Hamiltonian and overlap.

    Raises:
        DataError: the folder is damaged or has no overlap.
    """
    overlaps = matrix_path(folder, "overlap")
    if is_structure_folder(folder) and not os.path.exists(overlaps):
        raise DataError(
            f"{overlaps}: no such file, but bands need the overlap too; take a folder that has it, give "
            "basis_files=FOLDER with the basis files of the DFT calculations, or write one with tracegrad convert"
        )
    return read_structure(folder, overlap=True)


def band_structure(
    structure: Structure,
    path: KPath,
    *,
    predicted: Structure | None = None,
    fermi_level: float | None = None,
    bands: int | None = None,
    processes: int | None = None,
    threshold: float = OVERLAP_THRESHOLD,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[BandStructure, PredictedBands | None]:
    """Bands of a structure and, with the same overlap, of a predicted Hamiltonian.

    Starts processes by spawning if there is enough work: a script that calls this needs the guard
    `if __name__ == "__main__"`.

    Args:
        structure: with H and S.
        path: the points.
        predicted: the same structure with another H.
        fermi_level: eV; None: that of the structure.
        bands: approximate number of bands around the Fermi level, computed by shift-and-invert if this is less work
            than all bands; None: all bands for up to 1500 orbitals, 60 for more.
        processes: number of processes of one thread each; None: one for each core, or only this one for little work.
        threshold: eigenvalues of S(k) below it are projected out where all bands are computed.
        on_progress: called with the number of points done and of all points.

    Raises:
        DataError: a matrix is missing or damaged, S(k) is not positive definite, or there is no Fermi level.
        ConfigError: ``bands`` or ``processes`` is below 1.
        TraceGradError: a worker process died.
    """
    level = structure.fermi_level if fermi_level is None else fermi_level
    if level is None:
        raise DataError(f"{structure.name}: no Fermi level in it; set fermi_level (eV)")
    for name, count in (("bands", bands), ("processes", processes)):
        if count is not None and count < 1:
            raise ConfigError(f"{name} is {count}; at least 1 is needed")
    total = int(structure.basis.sizes[structure.numbers].sum())
    solver = KPointSolver(structure, level, bands_to_compute(bands, total), predicted, threshold)
    results = at_points(structure.name, solver, path.points, total, processes, on_progress)
    return _band_structures(structure, path, level, total, results)


def bands_to_compute(bands: int | None, size: int) -> int | None:
    """Number of bands around a level that are computed, or None if all are, because this is no more work.

    Args:
        bands: as asked for; None: all for up to 1500 orbitals, 60 for more.
        size: number of orbitals.
    """
    if bands is None and size > LARGEST_DENSE:
        bands = BANDS_OF_LARGE
    return None if bands is None or 3 * (bands + EXTRA_STATES) >= size else bands


def at_points(
    name: str,
    solver: Callable[[Float[np.ndarray, " 3"]], Any],
    points: Float[np.ndarray, "k 3"],
    size: int,
    processes: int | None,
    on_progress: Callable[[int, int], None],
) -> list[Any]:
    """What a solver returns at each point; see `each_point`."""
    results = dict(each_point(name, solver, points, size, processes, on_progress))
    return [results[i] for i in range(len(points))]


def each_point(
    name: str,
    solver: Callable[[Float[np.ndarray, " 3"]], Any],
    points: Float[np.ndarray, "k 3"],
    size: int,
    processes: int | None,
    on_progress: Callable[[int, int], None],
) -> Iterator[tuple[int, Any]]:
    """Positions of the points, as they are done, and what a solver returns there.

    The work is done in processes of one thread each if there is enough of it.

    Args:
        name: of the structure, for messages.
        solver: picklable.
        points: k.
        size: number of orbitals.
        processes: None: one for each core, or only this one for little work.
        on_progress: called with the number of points done and of all points.

    Raises:
        TraceGradError: a worker process died.
    """
    count = len(points)
    if processes is None:
        processes = 1 if size**3 * count < _WORTH_PROCESSES else available_cores()
    on_progress(0, count)
    try:
        with threadpool_limits(limits=1):
            for done, result in enumerate(map_unordered(solver, list(points), processes), start=1):
                yield result
                on_progress(done, count)
    except WorkerDied as error:
        raise TraceGradError(
            f"{name}: a worker process died ({error}); fewer processes or bands need less memory"
        ) from error


def _band_structures(
    structure: Structure, path: KPath, level: float, total: int, results: Sequence[KPointBands]
) -> tuple[BandStructure, PredictedBands | None]:
    smallest = min(result.smallest_overlap for result in results)

    def bands(points: Sequence[KPointBands]) -> BandStructure:
        first, energies = common_bands(structure.name, points, [point.energies for point in points])
        dropped, ghosts = (max(getattr(p, what) for p in points) for what in ("dropped", "ghosts"))
        return BandStructure(structure.name, path, energies, first, total, level, smallest, dropped, ghosts)

    predicted = [result.predicted for result in results if result.predicted is not None]
    if not predicted:
        return bands(results), None
    shifts = [result.first_order for result in results if result.first_order is not None]
    return bands(results), PredictedBands(bands(predicted), common_bands(structure.name, results, shifts)[1])


def common_bands(
    name: str, points: Sequence[KPointBands], rows: Sequence[np.ndarray]
) -> tuple[int, Float[np.ndarray, "k bands"]]:
    """The part of the rows for the bands that were computed at all points, and the number of bands below them."""
    firsts = [point.first for point in points]
    low = max(firsts)
    high = min(first + len(row) for first, row in zip(firsts, rows, strict=True))
    if high <= low:
        raise ConfigError(
            f"{name}: no band is among those nearest to the Fermi level at all points; set more bands"
        )
    return low, np.array([row[low - first : high - first] for first, row in zip(firsts, rows, strict=True)])


def band_gap(bands: BandStructure, occupied: int | None = None) -> BandGap:
    """Occupation and gap on the path.

    Args:
        bands: along the path.
        occupied: number of occupied bands; None: the bands below the Fermi level are occupied.

    Raises:
        DataError: the highest occupied or the lowest empty band was not computed.
    """
    energies = bands.energies
    if occupied is None:
        below = bands.first + (energies < bands.fermi_level).sum(1)
        if below.min() < below.max():
            return BandGap(True, (int(below.min()) + 1, int(below.max())))
        occupied = int(below[0])
    top = occupied - bands.first
    if not 0 < top < energies.shape[1]:
        raise DataError(
            f"{bands.name}: {occupied} occupied bands, but {bands.first + 1} to {bands.first + energies.shape[1]} "
            "were computed; correct fermi_level (eV) or set more bands"
        )
    valence, conduction = energies[:, top - 1], energies[:, top]
    found = gap_between(valence, conduction, occupied)
    if found.valence_point is None or found.conduction_point is None:
        return found
    steps = _step(valence, found.valence_point), _step(conduction, found.conduction_point)
    return replace(found, step=max(steps))


def is_one_sided(bands: BandStructure) -> bool:
    """Whether all bands are empty or all are occupied, as those of one spin may be: then there is no gap."""
    below = bands.energies < bands.fermi_level
    last = bands.first + bands.energies.shape[1]
    return (bands.first == 0 and not below.any()) or (last == bands.total and bool(below.all()))


def both_spins(bands: Sequence[BandStructure], name: str) -> BandStructure:
    """The bands of both spins of a collinear structure as the states of one, each of which holds one electron.

    Args:
        bands: of the two spins, on one path and with one Fermi level.
        name: of the structure.
    """
    return BandStructure(
        name,
        bands[0].path,
        np.sort(np.concatenate([one.energies for one in bands], axis=1), axis=1),
        first=sum(one.first for one in bands),
        total=sum(one.total for one in bands),
        fermi_level=bands[0].fermi_level,
        smallest_overlap=min(one.smallest_overlap for one in bands),
        dropped=sum(one.dropped for one in bands),
        ghosts=sum(one.ghosts for one in bands),
    )


def _step(energies: Float[np.ndarray, " k"], point: int) -> float:
    """Largest difference to the energies at the neighbouring points."""
    return float(np.abs(energies[max(point - 1, 0) : point + 2] - energies[point]).max())
