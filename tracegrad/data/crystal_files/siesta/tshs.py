"""The binary ``.TSHS`` file of SIESTA and TranSIESTA, version 1: structure, H and S, but no species.

The file consists of Fortran records, each between two marks of four bytes with its length, little-endian:

| record                  | content                                                                           |
|-------------------------|-----------------------------------------------------------------------------------|
| version                 | int                                                                               |
| sizes                   | ints: atoms, orbitals, orbitals in all cells, parts of H, elements                |
| nsc                     | ints: cells along three vectors                                                   |
| geometry                | doubles: 3 vectors and the positions, bohr                                        |
| switches                | logicals: Gamma only, the same for the electrodes, S only                         |
| k points                | ints and doubles                                                                  |
| level                   | doubles: Fermi level (rydberg), charge, temperature                               |
| step                    | ints                                                                              |
| last orbitals           | ints: 0, then the last orbital of each atom                                       |
| lengths, lists, S and H | as in an .HSX file, but S before H, and always in double precision                |
| cells                   | ints: R of each cell; absent if Gamma only                                        |

Energies are absolute. Species and shells are taken from ``.ORB_INDX``
(`tracegrad.data.crystal_files.siesta.orb_indx`).
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from tracegrad.data.crystal_files.siesta.fortran_records import FortranRecords, open_records
from tracegrad.data.crystal_files.siesta.orb_indx import OrbitalIndex
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

KIND = ".TSHS file of SIESTA"


def read_tshs_header(path: Path, orbitals: OrbitalIndex) -> SiestaRun:
    """What stands before the matrices of a file, which may be compressed with gzip; ``cells`` are not known yet.

    Raises:
        DataError: the file is missing, damaged, truncated, of another version, or of other orbitals.
    """
    with open_records(path, KIND) as records:
        return _header(records, orbitals)[0]


def read_tshs(path: Path, orbitals: OrbitalIndex) -> tuple[SiestaRun, SiestaMatrices]:
    """A whole file, which may be compressed with gzip, of a run with these orbitals.

    Raises:
        DataError: the file is missing, damaged, truncated, of another version, or of other orbitals.
    """
    with open_records(path, KIND) as records:
        run, cells, gamma = _header(records, orbitals)
        lists = SparseLists(records, len(orbitals.atoms), cells)
        overlap = lists.elements(records, "overlap")
        hamiltonian = [lists.elements(records, "Hamiltonian") for _ in range(run.parts)]
        if not gamma:
            run = replace(run, cells=records.ints("cells", 3 * cells).reshape(cells, 3))
        records.end()
    return run, lists.matrices(hamiltonian, overlap)


def _header(records: FortranRecords, orbitals: OrbitalIndex) -> tuple[SiestaRun, int, bool]:
    """The run, the number of its cells, and whether it is one at Gamma only."""
    length = records.mark("version")
    version = records.mark("version") if length == 4 else 0
    if version != 1 or records.mark("version") != 4:
        raise DataError(
            f"{records.path}: is of another version than 1 of .TSHS files, or no such file; run a newer SIESTA"
        )
    atoms, size, _, parts, _ = records.ints("sizes", 5).tolist()
    supercell = records.ints("nsc", 3).tolist()
    cells = int(np.prod(supercell))
    if min(atoms, size, *supercell) < 1 or cells > MOST_CELLS or parts not in PARTS:
        raise records.damaged(f"{atoms} atoms, {size} orbitals, {parts} parts of H, {supercell} cells")
    geometry = np.frombuffer(records.record("geometry", 72 + 24 * atoms), "<f8").reshape(-1, 3)
    gamma, _, only_overlap = records.ints("switches", 3).tolist()
    if only_overlap:
        raise DataError(f"{records.path}: has S but no H; run SIESTA without TS.onlyS")
    records.record("k points", 60)
    level = float(np.frombuffer(records.record("level", 24), "<f8")[0])
    records.ints("step", 2)
    last = records.ints("last orbitals", atoms + 1)
    if gamma and cells > 1:
        raise records.damaged(f"Gamma only, but {supercell} cells")
    if size != len(orbitals.atoms) or not np.array_equal(np.diff(last), np.bincount(orbitals.atoms)):
        raise DataError(
            f"{records.path}: has {size} orbitals of {atoms} atoms, which are not those of the .ORB_INDX file; take "
            "both files from one run"
        )
    species, labels, shells = _species(orbitals)
    run = SiestaRun(
        parts,
        level * EV_PER_RYDBERG,
        geometry[:3] * ANGSTROM_PER_BOHR,
        geometry[3:] * ANGSTROM_PER_BOHR,
        np.zeros((1, 3), dtype=np.int64),
        species,
        labels,
        None,
        shells,
    )
    return run, cells, bool(gamma)


def _species(
    orbitals: OrbitalIndex,
) -> tuple[Int64[np.ndarray, " atoms"], tuple[str, ...], tuple[Int64[np.ndarray, "_ 3"], ...]]:
    """Species of each atom, and label and orbitals of each species."""
    first = np.unique(orbitals.atoms, return_index=True)[1]
    species = orbitals.species[first]
    labels, shells = [], []
    for kind in range(int(species.max()) + 1):
        atoms = np.flatnonzero(species == kind)
        labels.append(orbitals.labels[first[atoms[0]]] if len(atoms) else "")
        mine = orbitals.atoms == (atoms[0] if len(atoms) else -1)
        shells.append(orbitals.shells[mine])
    return species, tuple(labels), tuple(shells)
