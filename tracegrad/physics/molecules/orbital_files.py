"""Orbitals and densities in files that molecular viewers read: Molden and Gaussian cube."""

import re
from pathlib import Path

import numpy as np
from pyscf import gto
from pyscf.tools import cubegen, molden

from tracegrad.errors import ConfigError
from tracegrad.physics.molecules.levels import MolecularLevels
from tracegrad.system.whole_files import replacing
from tracegrad.units import ANGSTROM_PER_BOHR

DENSITY = "density"
_MARGIN = 3.0 / ANGSTROM_PER_BOHR  # bohr, of 3 angstrom around the atoms
_NAME = re.compile(r"HOMO(-\d+)?|LUMO(\+\d+)?")


def write_molden(molecule: gto.Mole, levels: MolecularLevels, path: Path) -> None:
    """Write basis, orbitals, energies and occupations of a molecule as a Molden file.

    Raises:
        TraceGradError: the file cannot be written.
    """
    occupations = 2.0 * (np.arange(len(levels.energies)) < levels.occupied)
    with replacing(path) as draft:
        molden.from_mo(
            molecule, str(draft), levels.coefficients, ene=levels.energies, occ=occupations, ignore_h=False
        )


def write_cube(
    molecule: gto.Mole, levels: MolecularLevels, name: str, path: Path, spacing: float = 0.2
) -> None:
    """Write an orbital or the density on a grid, as a cube file.

    Args:
        molecule: in the orientation of the file.
        levels: its orbitals.
        name: HOMO, HOMO-1, LUMO, LUMO+2, ..., or density (electrons / bohr^3).
        path: of the file.
        spacing: of the grid, angstrom.

    Raises:
        ConfigError: another name, an orbital that does not exist, or a spacing that is not above 0.
        TraceGradError: the file cannot be written.
    """
    check_cube(levels, name, spacing)
    options = {"resolution": spacing / ANGSTROM_PER_BOHR, "margin": _MARGIN}
    if name == DENSITY:
        occupied = levels.coefficients[:, : levels.occupied]
        matrix = 2 * occupied @ occupied.T
        with replacing(path) as draft:
            cubegen.density(molecule, str(draft), matrix, **options)
        return
    coefficients = levels.coefficients[:, orbital_index(levels, name)]
    with replacing(path) as draft:
        cubegen.orbital(molecule, str(draft), coefficients, **options)


def check_cube(levels: MolecularLevels, name: str, spacing: float) -> None:
    """Raise `ConfigError` unless `write_cube` can write this."""
    if not spacing > 0:
        raise ConfigError(f"the spacing of cubes is {spacing}; give a number of angstrom above 0")
    if name != DENSITY:
        orbital_index(levels, name)


def orbital_index(levels: MolecularLevels, name: str) -> int:
    """Position of an orbital that is named relative to the gap.

    Raises:
        ConfigError: no such name, or no such orbital.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"no orbital is called {name!r}; write HOMO, HOMO-1, LUMO, LUMO+2 ... or {DENSITY}")
    distance = int(name[4:] or 0)
    index = levels.occupied + distance - (name[:4] == "HOMO")
    if not 0 <= index < len(levels.energies):
        raise ConfigError(
            f"the molecule has no {name}: it has {len(levels.energies)} orbitals, {levels.occupied} occupied"
        )
    return index
