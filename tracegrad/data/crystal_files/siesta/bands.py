"""The eigenvalues that SIESTA printed: ``.EIG``, at the k of ``.KP``.

| file     | content                                                                                       |
|----------|-----------------------------------------------------------------------------------------------|
| ``.EIG`` | Fermi level; bands, parts of H, number of k; for each k its number and the bands, eV; spin up |
|          | first if collinear                                                                            |
| ``.KP``  | number of k; for each its number, Cartesian components (1/bohr) and weight                    |
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from tracegrad.data.crystal_files.siesta.run import SiestaRun
from tracegrad.data.crystals.calculation_text import calculation_text
from tracegrad.data.crystals.reference_bands import ReferenceBands
from tracegrad.errors import DataError
from tracegrad.units import ANGSTROM_PER_BOHR

_SAME_LEVEL = 1e-4  # eV


def read_eig(path: Path, kpoints: Path, run: SiestaRun) -> ReferenceBands:
    """Eigenvalues of a run; they are absolute, as its H.

    Args:
        path: the ``.EIG`` file.
        kpoints: the ``.KP`` file.
        run: what the binary file says.

    Raises:
        DataError: a file cannot be read, is damaged, or of another run.
    """
    values = _numbers(path)
    if len(values) < 4:
        raise DataError(f"{path}: has {len(values)} numbers; the file is truncated, run SIESTA again")
    level = float(values[0])
    bands, parts, points = (int(value) for value in values[1:4])
    spins = 2 if parts == 2 else 1
    if min(bands, points) < 1 or len(values) != 4 + points * (1 + spins * bands):
        raise DataError(
            f"{path}: has {len(values)} numbers, which are not those of {points} k with {bands} bands; the file is "
            "truncated or damaged, run SIESTA again"
        )
    if parts != run.parts or abs(level - run.fermi_level) > _SAME_LEVEL:
        raise DataError(
            f"{path}: is of {parts} parts of H and the Fermi level {level:.4f} eV, but the binary file of "
            f"{run.parts} and {run.fermi_level:.4f} eV; take all files from one run"
        )
    energies = values[4:].reshape(points, -1)[:, 1:].reshape(points, spins, bands).swapaxes(0, 1)
    table = _numbers(kpoints)
    if len(table) != 1 + 5 * points or table[0] != points:
        raise DataError(
            f"{kpoints}: has {len(table)} numbers, which are not those of the {points} k of {path.name}; take all "
            "files from one run"
        )
    cartesian = table[1:].reshape(points, 5)[:, 1:4] / ANGSTROM_PER_BOHR
    return ReferenceBands(str(path), cartesian @ run.lattice.T / (2 * np.pi), energies, absolute=True)


def _numbers(path: Path) -> Float[np.ndarray, " numbers"]:
    try:
        values = np.array(calculation_text(path).split(), dtype=np.float64)
    except ValueError as error:
        raise DataError(f"{path}: {error}; the file is damaged, run SIESTA again") from error
    if not np.isfinite(values).all():
        raise DataError(f"{path}: has numbers that are not finite; the calculation went wrong, repeat it")
    return values
