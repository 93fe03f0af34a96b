"""Basis files of any code, and the one of each element in a folder."""

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from tracegrad.elements import SYMBOLS
from tracegrad.errors import BasisError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.physics.overlaps.abacus_orb import read_orb
from tracegrad.physics.overlaps.openmx_pao import read_pao
from tracegrad.physics.overlaps.radial_shells import RadialShells
from tracegrad.physics.overlaps.siesta_ion import read_ion_xml

READERS: dict[str, Callable[[str | Path], RadialShells]] = {
    ".pao": read_pao,
    ".orb": read_orb,
    ".ion.xml": read_ion_xml,
}
_SAME_RADIUS = 1e-3  # angstrom


def read_basis_file(path: str | Path) -> RadialShells:
    """All shells of a ``.pao``, ``.orb`` or ``.ion.xml`` file.

    Raises:
        BasisError: another name, or the file cannot be read or is damaged.
    """
    for ending, reader in READERS.items():
        if str(path).endswith(ending):
            return reader(path)
    raise BasisError(
        f"{path}: is no basis file; give one of OpenMX (.pao), ABACUS (.orb) or SIESTA (.ion.xml)"
    )


def read_basis_folder(
    folder: str | Path, basis: OrbitalBasis, elements: Iterable[int]
) -> dict[int, RadialShells]:
    """The shells of some elements from the basis files in a folder.

    File names start with the symbol of the element, as those of all codes do (C6.0.pao, Si_gga_8au_60Ry_2s2p1d.orb,
    Ti.ion.xml). Of several ``.pao`` files of an element the one with the radius of the basis is taken.

    Args:
        folder: with one file for each element, others may be there.
        basis: the shells that are needed and, if it has them, their radii.
        elements: atomic numbers.

    Raises:
        BasisError: an element has no file, or several, or one with other shells or another radius.
    """
    folder = Path(folder)
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise BasisError(
            f"{folder}: cannot be read ({error.strerror}); give a folder with basis files"
        ) from error
    return {number: _of_element(folder, names, basis, number) for number in sorted(set(elements))}


def _of_element(folder: Path, names: list[str], basis: OrbitalBasis, number: int) -> RadialShells:
    basis.check(np.array([number]), str(folder))
    symbol = SYMBOLS[number]
    candidates = [
        name for name in names if re.match(rf"{symbol}(?![a-z])", name) and name.endswith(tuple(READERS))
    ]
    found = [
        shells
        for shells in (read_basis_file(folder / name) for name in candidates)
        if shells.number == number
    ]
    if not found:
        raise BasisError(
            f"{folder}: has no basis file of {symbol} ({symbol}*.pao, {symbol}*.orb or {symbol}*.ion.xml); "
            "add the one of the calculations that the network learned"
        )
    if basis.radii is not None:
        radius = basis.radii[number]
        radii = ", ".join(f"{shells.radius:.3f}" for shells in found)
        found = [shells for shells in found if abs(shells.radius - radius) < _SAME_RADIUS]
        if not found:
            raise BasisError(
                f"{folder}: the orbitals of {symbol} end at {radii} angstrom in its basis files, but at {radius:.3f} "
                f"in the basis {basis.name}; add the file of the calculations that the network learned"
            )
    if len(found) > 1:
        sources = ", ".join(Path(shells.source).name for shells in found)
        raise BasisError(
            f"{folder}: {sources} are all of {symbol}; leave the one of the calculations in a folder"
        )
    return found[0].select(basis.shells[number])
