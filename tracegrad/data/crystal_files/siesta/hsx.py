"""The binary ``.HSX`` file of SIESTA, versions 1 and 2: structure, species, H and S.

The file consists of Fortran records, each between two marks of four bytes with its length, little-endian:

| record                     | content                                                                        |
|----------------------------|--------------------------------------------------------------------------------|
| version                    | int; version 0 has no such record                                              |
| precision                  | logical: H and S in double precision                                           |
| sizes                      | ints: atoms, orbitals, parts of H, species, nsc (cells along three vectors)    |
| cell and level             | doubles: 3 vectors (bohr), Fermi level (rydberg), charge, temperature          |
| geometry                   | ints: R of each cell; doubles: positions (bohr); ints: species, last orbitals  |
| species                    | for each: label of 20 bytes, double: valence charge, int: number of orbitals   |
| orbitals, for each species | ints: n, l and zeta of each orbital                                            |
| k points, in version 2     | ints and doubles                                                               |
| lengths of the lists       | int for each orbital                                                           |
| lists, for each orbital    | ints from 1: other orbital + number of orbitals x number of its cell R         |
| H, for each part, orbital  | <other orbital in cell R| H |orbital in cell 0>, rydberg                       |
| S, for each orbital        | the same                                                                       |

H and S have the same elements; S is 0 where only H reaches. Energies are absolute. Intel's compiler writes -1 for
true.
"""

import struct
from pathlib import Path

import numpy as np

from tracegrad.data.crystal_files.siesta.fortran_records import FortranRecords, open_records
from tracegrad.data.crystal_files.siesta.run import (
    EV_PER_RYDBERG,
    MOST_CELLS,
    PARTS,
    SiestaMatrices,
    SiestaRun,
    SparseLists,
)
from tracegrad.errors import DataError
from tracegrad.units import ANGSTROM_PER_BOHR

VERSIONS = (1, 2)
KIND = ".HSX file of SIESTA"


def read_hsx_header(path: Path) -> SiestaRun:
    """What stands before the matrices of a file, which may be compressed with gzip.

    Raises:
        DataError: the file is missing, damaged, truncated or of another version.
    """
    with open_records(path, KIND) as records:
        return _header(records)[0]


def read_hsx(path: Path) -> tuple[SiestaRun, SiestaMatrices]:
    """A whole file, which may be compressed with gzip.

    Raises:
        DataError: the file is missing, damaged, truncated or of another version.
    """
    with open_records(path, KIND) as records:
        run, double = _header(records)
        lists = SparseLists(records, int(run.orbital_counts.sum()), len(run.cells), double=double)
        hamiltonian = [lists.elements(records, "Hamiltonian") for _ in range(run.parts)]
        overlap = lists.elements(records, "overlap")
        records.end()
    return run, lists.matrices(hamiltonian, overlap)


def _header(records: FortranRecords) -> tuple[SiestaRun, bool]:
    """The run, and whether the matrices are in double precision."""
    length = records.mark("version")
    if length == 16:
        raise DataError(
            f"{records.path}: version 0 of the file, which has neither the cell nor the Fermi level; versions "
            f"{VERSIONS[0]} and {VERSIONS[1]} are read, so run a newer SIESTA (5.0 or later) with SaveHS"
        )
    if length != 4:
        raise records.damaged(f"the first record has {length} bytes, not 4")
    version = records.mark("version")
    if version not in VERSIONS or records.mark("version") != 4:
        raise DataError(
            f"{records.path}: version {version}; versions {VERSIONS[0]} and {VERSIONS[1]} of .HSX files are read, or "
            "this is no .HSX file of SIESTA"
        )
    double = bool(records.ints("precision", 1)[0])
    atoms, size, parts, kinds, *supercell = records.ints("sizes", 7).tolist()
    count = int(np.prod(supercell))
    if min(atoms, size, kinds, *supercell) < 1 or count > MOST_CELLS or parts not in PARTS:
        raise records.damaged(
            f"{atoms} atoms, {size} orbitals, {parts} parts of H, {kinds} species, {supercell} cells"
        )
    numbers = np.frombuffer(records.record("cell and level", 96), "<f8")
    geometry = records.record("geometry", 12 * count + 32 * atoms)
    cells = np.frombuffer(geometry, "<i4", 3 * count).astype(np.int64).reshape(count, 3)
    positions = np.frombuffer(geometry, "<f8", 3 * atoms, 12 * count).reshape(atoms, 3)
    species, last = np.frombuffer(geometry, "<i4", 2 * atoms, 12 * count + 24 * atoms).reshape(2, atoms)
    described = list(struct.iter_unpack("<20sdi", records.record("species", 32 * kinds)))
    labels = tuple(label.decode("utf-8", "replace").strip() for label, _, _ in described)
    orbitals = tuple(
        records.ints(f"orbitals of {label}", 3 * n).reshape(n, 3)
        for label, (_, _, n) in zip(labels, described, strict=True)
    )
    if species.min() < 1 or species.max() > kinds:
        raise records.damaged(f"atoms of species that are not among {kinds}")
    run = SiestaRun(
        parts,
        float(numbers[9]) * EV_PER_RYDBERG,
        numbers[:9].reshape(3, 3) * ANGSTROM_PER_BOHR,
        positions * ANGSTROM_PER_BOHR,
        cells,
        species.astype(np.int64) - 1,
        labels,
        tuple(charge for _, charge, _ in described),
        orbitals,
    )
    if (np.cumsum(run.orbital_counts) != last).any() or last[-1] != size:
        raise records.damaged(f"{size} orbitals, which are not those of the species of its atoms")
    if version == 2:
        records.record("k points", 36 + 24)
    return run, double
