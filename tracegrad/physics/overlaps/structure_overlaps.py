"""The overlaps of a whole structure from the basis files of its elements."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from tracegrad.data.crystals.structure import PAIR_TOLERANCE, Structure, block_key
from tracegrad.elements import SYMBOLS
from tracegrad.errors import BasisError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.neighbours import pair_ranges
from tracegrad.physics.overlaps.basis_files import read_basis_folder
from tracegrad.physics.overlaps.radial_shells import RadialShells
from tracegrad.physics.overlaps.two_centre import TwoCentreOverlaps

_SAME_LENGTH = 1e-3  # angstrom; OpenMX lists exactly the pairs whose orbitals reach each other


def with_overlaps(structure: Structure, basis: OrbitalBasis, folder: str | Path) -> Structure:
    """The structure with overlaps for its pairs of atoms.

    Args:
        structure: without overlaps.
        basis: of the structure, with radii if they are known. Otherwise the pairs of the structure have to be those
            whose orbitals reach each other.
        folder: with the basis files, see `read_basis_folder`.

    Raises:
        BasisError: the structure has overlaps, or the folder has not the orbitals of the basis.
    """
    return BasisFileOverlaps(folder, basis, structure.numbers.tolist())(structure)


class BasisFileOverlaps:
    """Adds overlaps to structures, see `with_overlaps`; the files are read once, and workers can use it, too.

    Args:
        folder: with the basis files.
        basis: of the structures.
        elements: atomic numbers.
    """

    def __init__(self, folder: str | Path, basis: OrbitalBasis, elements: Iterable[int]):
        self.folder, self.has_radii = folder, basis.radii is not None
        self.shells = read_basis_folder(folder, basis, elements)
        self.overlaps = TwoCentreOverlaps(self.shells)

    def __call__(self, structure: Structure) -> Structure:
        """The structure with overlaps."""
        if structure.overlap is not None:
            raise BasisError(
                f"{structure.name}: has overlaps, those of its DFT calculation; leave out {self.folder}"
            )
        if not self.has_radii:
            _check_reach(structure, self.shells)
        geometry = (torch.from_numpy(structure.positions), torch.from_numpy(structure.lattice))
        entries = self.overlaps.entries(
            structure.numbers, *geometry, structure.edges, structure.basis_of("overlap")
        )
        return replace(structure, overlap=entries.numpy())


def _check_reach(structure: Structure, shells: Mapping[int, RadialShells]) -> None:
    """Raise `BasisError` if the pairs of a structure are not those of orbitals with these cutoffs."""
    farthest = 2 * max(one.radius for one in shells.values())
    ranges = pair_ranges(structure.numbers, structure.positions, structure.lattice, structure.edges, farthest)
    for (a, b), found in ranges.items():
        reach = shells[a].radius + shells[b].radius
        exact = (
            shells[a].more and shells[b].more
        )  # other codes list more pairs, or drop those with small elements
        if found.absent < reach - (_SAME_LENGTH if exact else PAIR_TOLERANCE):
            what = (
                f"but there is no block {block_key(found.nearest)} of atoms {found.absent:.3f} angstrom apart"
            )
        elif exact and found.longest > reach + _SAME_LENGTH:
            what = f"but there is a block {block_key(found.farthest)} of atoms {found.longest:.3f} angstrom apart"
        else:
            continue
        sources = ", ".join(sorted({Path(shells[number].source).name for number in (a, b)}))
        raise BasisError(
            f"{structure.name}: orbitals of {SYMBOLS[a]}-{SYMBOLS[b]} in {sources} reach {reach:.3f} angstrom, "
            f"{what}; take the basis files of its DFT calculation"
        )
