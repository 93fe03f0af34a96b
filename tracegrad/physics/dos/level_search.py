"""The Fermi level of large cells, from some bands around it in place of all.

By Sylvester's law of inertia one factorisation of H(k) - E S(k) tells how many states are below E. A search at one k
finds an energy near the level; bands around it, of known numbers, are filled with the electrons that are left.
"""

from collections.abc import Callable

import numpy as np
from scipy.sparse import csr_array

from tracegrad.data.crystals.structure import Structure, on_site_levels
from tracegrad.errors import ConfigError, DataError
from tracegrad.physics.bands.bands import BANDS_OF_LARGE, at_points, bands_to_compute, common_bands
from tracegrad.physics.bands.bloch import KPointSolver, states_below
from tracegrad.physics.dos.fermi_level import FermiCount, count_fermi_level
from tracegrad.physics.dos.kmesh import KMesh

_NEAR = 6  # states between the energy that the search finds and the level, at most
_FIRST_STEP = 4.0  # eV, from the first energy of the search to the second
_STEPS = 60
_ATTEMPTS = 4


def search_fermi_level(
    structure: Structure,
    mesh: KMesh,
    electrons: float,
    *,
    smearing: str | None = "gaussian",
    width: float = 0.05,
    bands: int = BANDS_OF_LARGE,
    processes: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> FermiCount:
    """Fermi level of a number of electrons.

    Args:
        structure: with H and S.
        mesh: the points.
        electrons: of a cell.
        smearing, width: see `tracegrad.physics.dos.fermi_level.count_fermi_level`.
        bands: approximate number of bands around the level; they have to hold all that are partly filled.
        processes, on_progress: see `tracegrad.physics.bands.bands.band_structure`.

    Raises:
        ConfigError: the bands cannot hold the electrons, or a metal without smearing.
        DataError: S(k) is not positive definite, or the bands around the level were not found.
    """
    spins = 3 - structure.basis.spins
    size = int(structure.basis.sizes[structure.numbers].sum())
    filled = electrons / spins
    if not 0 < filled < size:
        raise ConfigError(
            f"{structure.name}: {electrons:g} electrons do not fit {size} bands of {spins} each; correct electrons "
            "or valence"
        )
    solver = KPointSolver(structure, 0.0, bands_to_compute(bands, size))
    first_k = mesh.points[0]
    solver.level = _near_level(solver.hamiltonian.at(first_k), solver.overlap.at(first_k), structure, filled)
    for _ in range(_ATTEMPTS):
        points = at_points(structure.name, solver, mesh.points, size, processes, on_progress)
        first, energies = common_bands(structure.name, points, [point.energies for point in points])
        if first < filled < first + energies.shape[1]:
            found = count_fermi_level(
                energies,
                mesh.weights,
                electrons,
                spins=spins,
                first=first,
                smearing=smearing,
                width=width,
                name=structure.name,
            )
            margins = found.level - energies[:, 0].max(), energies[:, -1].min() - found.level
            if not found.metal or min(margins) > 4 * width:
                return found
            solver.level = found.level
            solver.bands = bands_to_compute(2 * bands, size)
        else:
            solver.level = float(energies[:, 0].min() if filled <= first else energies[:, -1].max())
    raise DataError(
        f"{structure.name}: the bands that {electrons:g} electrons fill were not found; give fermi_level (eV), or "
        "set bands to a larger number"
    )


def _near_level(hamiltonian: csr_array, overlap: csr_array, structure: Structure, filled: float) -> float:
    """An energy (eV) at one k below which there are nearly ``filled`` states.

    The search starts where the levels of the on-site blocks would be filled, and goes on where the straight line
    between the numbers of states at the nearest energies below and above is zero; each energy costs a factorisation.
    """
    levels = np.sort(np.concatenate(on_site_levels(structure)))
    energy = float(levels[min(int(filled), len(levels) - 1)])
    low: tuple[float, float] | None = None  # energy, and number of states that are missing below it
    high: tuple[float, float] | None = None
    step = _FIRST_STEP
    for _ in range(_STEPS):
        missing = filled - states_below(hamiltonian, overlap, energy)
        if abs(missing) <= _NEAR:
            break
        if missing > 0:
            low = energy, missing
        else:
            high = energy, missing
        if low is not None and high is not None:
            share = low[1] / (low[1] - high[1])
            energy = low[0] + min(max(share, 0.1), 0.9) * (high[0] - low[0])
        else:
            energy += step if missing > 0 else -step
            step *= 2
    return energy
