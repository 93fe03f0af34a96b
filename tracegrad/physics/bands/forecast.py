"""Time and memory that bands and states on a mesh will take, before the work begins.

The time of one point is counted in multiples of n^3, with n orbitals, and a trial with a small matrix tells how long
n^3 takes here. The factors were measured for 150 to 400 atoms of bilayer graphene.
"""

import time
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from tracegrad.errors import ConfigError
from tracegrad.physics.bands.bands import bands_to_compute
from tracegrad.physics.bands.dense import all_states
from tracegrad.system.progress import readable_size

_TRIAL = 240  # orbitals
_COMPLEX = 16  # bytes of a complex number
# Matrices in memory at the same time: H, S, their copies and the work space of LAPACK, vectors, S times vectors. Of
# some bands 4.0 and 4.6 were measured (506 and 1,012 atoms of graphene), with the blocks of the structure.
_MATRICES_OF_ALL, _MATRICES_OF_SOME = 9, 5
_SHARE = 0.9  # of the free memory that is used
_SPECTRUM = 200.0  # eV, from the lowest to the highest band of a basis with polarisation functions


@dataclass(frozen=True)
class PointWork:
    """Work at some k points.

    Args:
        what: words for it, such as "bands on the path".
        points: number of k points.
        cubes: operations of one point, in units of n^3 as the trial measures them.
        bytes: memory of one process.
        advice: what takes less memory.
    """

    what: str
    points: int
    cubes: float
    bytes: float
    advice: str


def work_of_all(what: str, size: int, points: int, hamiltonians: int = 1) -> PointWork:
    """All states of a number of Hamiltonians at some points."""
    memory = _MATRICES_OF_ALL * _COMPLEX * float(size) ** 2
    return PointWork(
        what, points, hamiltonians * float(size) ** 3, memory, "dos_method=polynomial and bands=60"
    )


def work_of_some(what: str, size: int, points: int, bands: int, hamiltonians: int = 1) -> PointWork:
    """Some bands around a level: factorisations, and iterations with solutions of systems of equations."""
    cubes = 0.12 * float(size) ** 3 + 9.0 * bands * float(size) ** 2
    memory = _MATRICES_OF_SOME * _COMPLEX * float(size) ** 2
    return PointWork(what, points, hamiltonians * cubes, memory, "bands=false, or take a smaller cell")


def work_of_polynomials(
    what: str, size: int, points: int, filled: float, width: float, vectors: int, hamiltonians: int = 1
) -> PointWork:
    """Moments of the polynomial method, for bands that span 200 eV.

    Args:
        what, size, points: see `PointWork`.
        filled: share of the elements of S(k) that are not 0.
        width: of the broadening, eV.
        vectors: number of random vectors.
        hamiltonians: number of Hamiltonians.
    """
    factors = min(1.0, 1.75 * filled**0.5) * float(size) ** 2  # numbers in the factors of S
    solutions = np.pi * _SPECTRUM / 4 / width * vectors + 1500  # and those that find the ends of the spectrum
    cubes = 0.05 * factors**1.5 + 0.6 * (factors + filled * size**2) * solutions
    memory = 3 * (_COMPLEX + 4) * factors
    return PointWork(what, points, hamiltonians * cubes, memory, "dos=false, or take a smaller cell")


def work_of_bands(what: str, size: int, points: int, bands: int | None, hamiltonians: int) -> PointWork:
    """All or some bands at some points, as `band_structure` computes them."""
    count = bands_to_compute(bands, size)
    if count is None:
        return work_of_all(what, size, points, hamiltonians)
    return work_of_some(f"{count} {what}", size, points, count, hamiltonians)


def seconds_of_a_cube(size: int) -> float:
    """Seconds per n^3 of all states of an eigenproblem, from a trial on one core; matrices of at most ``size``."""
    n = min(size, _TRIAL)
    random = np.random.default_rng(0)
    matrix = random.normal(size=(n, n)) + 1j * random.normal(size=(n, n))
    matrix += matrix.conj().T
    overlap = np.eye(n) + 0.001 / n * matrix
    times = []
    with threadpool_limits(limits=1):
        for _ in range(2):  # the first one is a warm-up
            started = time.perf_counter()
            all_states(matrix, overlap, "trial")
            times.append(time.perf_counter() - started)
    return times[-1] / n**3


def fitting_processes(works: list[PointWork], processes: int | None, cores: int, memory: int) -> int | None:
    """Number of processes whose memory is there; None if all cores can be used and the user has not chosen.

    Args:
        works: what is to be done.
        processes: as chosen by the user, or None.
        cores: number of cores.
        memory: free bytes.

    Raises:
        ConfigError: the memory does not suffice.
    """
    largest = max(works, key=lambda work: work.bytes)
    fitting = int(_SHARE * memory / largest.bytes)
    if fitting < (processes or 1):
        used = 1 if fitting == 0 else processes or 1
        needed = (
            f"{used} process{'es need' if used > 1 else ' needs'} about {readable_size(used * largest.bytes)}"
        )
        raise ConfigError(
            f"{largest.what}: {needed} of memory, but {readable_size(memory)} are free; set "
            + (f"processes={fitting}" if fitting else largest.advice)
        )
    if processes is None and fitting < cores:
        return fitting
    return processes


def forecast_lines(works: list[PointWork], size: int, processes: int, cube: float) -> list[str]:
    """A line for each work: its time and memory.

    Args:
        works: what is to be done.
        size: number of orbitals.
        processes: number of processes.
        cube: see `seconds_of_a_cube`.
    """
    lines = []
    for work in works:
        used = min(processes, work.points)
        seconds = work.points * work.cubes * cube / used
        lines.append(
            f"forecast, {work.what}: {work.points} k points of {size} orbitals, {_readable_time(seconds)} in {used} "
            f"process{'es' if used > 1 else ''}, {readable_size(work.bytes * used)}"
        )
    return lines


def _readable_time(seconds: float) -> str:
    if seconds < 1:
        return "less than 1 s"
    if seconds < 100:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 6000 else f"about {seconds / 3600:.1f} h"
