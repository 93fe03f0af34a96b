"""Crystals from SIESTA, read from the ``.HSX`` file of a run (``SaveHS true``), or from its ``.TSHS`` file.

| file beside it | what is taken from it                                                                       |
|----------------|---------------------------------------------------------------------------------------------|
| ``.XV``        | atomic number of each species; else the labels of the species have to start with symbols    |
| ``.ORB_INDX``  | shells, needed with .TSHS; radii of the orbitals, needed for runs at Gamma only             |
| ``.EIG, .KP``  | eigenvalues with which those of H and S can be compared                                     |

Positions and cell are those of the binary file: during molecular dynamics the ``.XV`` file holds the next step.
The functions of a shell are m = -l .. l with the sign (-1)^m. A run at Gamma only adds all images to R = 0, so that
its blocks are those of pairs of atoms only if no orbital reaches an image. H reaches farther than S, by the
projectors of the pseudopotentials: pairs that only H has get S = 0. Parts H1, H2, ... of H give, if it is
non-collinear, uu = H1, dd = H2, ud = H3 - i H4, du = H3 + i H4, and with spin-orbit coupling uu = H1 + i H5,
dd = H2 + i H6, ud = H3 - i H4, du = H7 + i H8.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64, Shaped

from tracegrad.data.crystal_files.siesta.bands import read_eig
from tracegrad.data.crystal_files.siesta.hsx import read_hsx, read_hsx_header
from tracegrad.data.crystal_files.siesta.orb_indx import OrbitalIndex, read_orb_indx
from tracegrad.data.crystal_files.siesta.orbitals import check_images, file_beside, siesta_orbitals
from tracegrad.data.crystal_files.siesta.run import SiestaMatrices, SiestaRun
from tracegrad.data.crystal_files.siesta.tshs import read_tshs, read_tshs_header
from tracegrad.data.crystals.orbital_blocks import CellOrbitals, join_spins, pair_blocks
from tracegrad.data.crystals.reader import SPINS, CrystalReader, StructureHeader, check_channel, checked_spin
from tracegrad.data.crystals.reference_bands import ReferenceBands
from tracegrad.data.crystals.structure import Structure
from tracegrad.errors import DataError

_HSX, _TSHS = (".HSX", ".HSX.gz"), (".TSHS", ".TSHS.gz")


class SiestaReader(CrystalReader):
    """Output of SIESTA: ``.HSX`` or ``.TSHS`` files, or folders of a run with one of them, plain or packed by gzip.

    Args:
        path: a file, a folder of a run, or a folder of these.
        spin: which of the two Hamiltonians of a collinear run is read, "up" or "down".
    """

    label = ".HSX or .TSHS files of SIESTA"
    collinear = True

    def __init__(self, path: str | Path, spin: str | None = None):
        super().__init__(path)
        self.spin = checked_spin(spin)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return len(_binary_files(path)) == 1

    @cached_property
    def places(self) -> dict[str, Path]:
        """The binary file of each structure, also where it is the only one in a folder."""
        return {name: _binary_files(place)[0] for name, place in super().places.items()}

    def read(self, name: str, matrices: Sequence[str]) -> Structure:
        path = self.places[name]
        run, elements = _read(path)
        orbitals = siesta_orbitals(path, run)
        if len(run.cells) == 1:
            check_images(path, run, orbitals)
        parts = self._parts(path, run)
        values = {"overlap": elements.overlap} if "overlap" in matrices else {}
        if "hamiltonian" in matrices:
            values |= {str(n): elements.hamiltonian[n] for n in parts}
        edges, blocks = pair_blocks(
            orbitals, -run.cells, elements.cell, elements.rows, elements.columns, values
        )
        hamiltonian = None
        if "hamiltonian" in matrices:
            hamiltonian = _joined([blocks[str(n)] for n in parts], edges, orbitals)
        return Structure(
            name=name,
            numbers=orbitals.numbers,
            positions=run.positions,
            lattice=run.lattice,
            shells=orbitals.shells,
            spinful=run.parts > 2,
            fermi_level=run.fermi_level,
            edges=edges,
            hamiltonian=hamiltonian,
            overlap=blocks.get("overlap"),
        )

    def header(self, name: str) -> StructureHeader:
        path = self.places[name]
        run = _read_header(path)
        self._parts(path, run)
        orbitals = siesta_orbitals(path, run)
        return StructureHeader(orbitals.numbers, orbitals.shells, run.parts > 2, run.fermi_level)

    def files(self, name: str, matrix: str = "hamiltonian") -> list[Path]:
        path = self.places[name]
        beside = [file_beside(path, suffix) for suffix in (".XV", ".ORB_INDX")]
        return [*(file for file in beside if file.is_file()), path]

    def reference_bands(self, name: str) -> ReferenceBands | None:
        path = self.places[name]
        energies, kpoints = file_beside(path, ".EIG"), file_beside(path, ".KP")
        if not energies.is_file() or not kpoints.is_file():
            return None
        return read_eig(energies, kpoints, _read_header(path))

    def _parts(self, path: Path, run: SiestaRun) -> list[int]:
        """The parts of H that are read."""
        check_channel(self.spin, run.parts == 2, str(path))
        return list(range(run.parts)) if self.spin is None else [SPINS.index(self.spin)]


def _read(path: Path) -> tuple[SiestaRun, SiestaMatrices]:
    return read_tshs(path, _orb_indx(path)) if path.name.endswith(_TSHS) else read_hsx(path)


def _read_header(path: Path) -> SiestaRun:
    return read_tshs_header(path, _orb_indx(path)) if path.name.endswith(_TSHS) else read_hsx_header(path)


def _orb_indx(path: Path) -> OrbitalIndex:
    """The orbitals of a ``.TSHS`` file."""
    index = file_beside(path, ".ORB_INDX")
    if not index.is_file():
        raise DataError(
            f"{path}: {index.name}, which has the shells that .TSHS files lack, is not beside it; copy it there"
        )
    return read_orb_indx(index)


def _joined(
    parts: Sequence[Float[np.ndarray, " entries"]],
    edges: Int64[np.ndarray, "pairs 5"],
    orbitals: CellOrbitals,
) -> Shaped[np.ndarray, " all"]:
    """Entries of H from the parts of the file, see the module."""
    if len(parts) == 1:
        return parts[0]
    if len(parts) == 4:
        mixed = parts[2] - 1j * parts[3]
        spins = [[parts[0], mixed], [mixed.conj(), parts[1]]]
    else:
        spins = [
            [parts[0] + 1j * parts[4], parts[2] - 1j * parts[3]],
            [parts[6] + 1j * parts[7], parts[1] + 1j * parts[5]],
        ]
    return join_spins(edges, orbitals.numbers, orbitals.basis, spins)


def _binary_files(path: Path) -> list[Path]:
    """An ``.HSX`` or ``.TSHS`` file itself, or those in a folder; .TSHS files only where there is no other."""
    found = [
        file
        for file in (path.iterdir() if path.is_dir() else [path])
        if file.name.endswith((*_HSX, *_TSHS)) and file.is_file()
    ]
    hsx = [file for file in found if file.name.endswith(_HSX)]
    better = path.is_file() and file_beside(path, ".HSX").is_file()
    return hsx or ([] if better else found)
