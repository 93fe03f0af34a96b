"""Packed files: a database of crystals in one HDF5 file.

A packed file has one group for each structure, with the name of the structure and these entries:

| entry                       | content                                                                       |
|-----------------------------|-------------------------------------------------------------------------------|
| ``numbers``                 | (atoms,) int64                                                                |
| ``positions``, ``lattice``  | (atoms, 3) and (3, 3) float64, angstrom; rows are vectors                     |
| ``edges``                   | (pairs, 5) int32 [Rx, Ry, Rz, i, j], atoms from 0; one edge of each hermitian pair |
| ``hamiltonian``, ``overlap``, ``h0`` | (1 or 2, entries): blocks of ``edges``; rows: real, imaginary parts |
| attributes                  | ``shells`` (JSON), ``spinful``, ``fermi_level`` (eV, if known)                |

Of a hermitian pair of edges, (R, i, j) and (-R, j, i), only one block is stored; the other one is its dagger. A
matrix is float64, or, rounded, int64 in units of 10^-decimals eV (attribute ``decimals`` of the dataset); a rounded
block is the mean of the two blocks of the pair. The file has the attribute ``format`` and the text ``provenance``
(JSON).
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Int64, Shaped

from tracegrad.data.crystals.hdf5 import open_hdf5, read_dataset
from tracegrad.data.crystals.reader import CrystalReader, StructureHeader
from tracegrad.data.crystals.structure import (
    MATRICES,
    Structure,
    basis_of_matrix,
    check_structure,
    edge_order,
    reordered,
    species_entries,
)
from tracegrad.errors import DataError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.blocks import block_starts
from tracegrad.hamiltonian.graph import reversed_edges
from tracegrad.system.whole_files import replacing

FORMAT = "TraceGrad crystals 1"
MOST_DECIMALS = 12


class PackedReader(CrystalReader):
    """A packed file."""

    label = "a packed .h5 file"
    matrices = MATRICES

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return os.path.isfile(path)

    @cached_property
    def places(self) -> dict[str, Path]:
        """The file for every structure; a folder is not searched for packed files."""
        return dict.fromkeys(packed_names(self.path), self.path) if self.recognises(self.path) else {}

    def read(self, name: str, matrices: Sequence[str]) -> Structure:
        with open_hdf5(self.path) as file:
            return _read_group(self.path, _group(file, name), name, matrices)

    def header(self, name: str) -> StructureHeader:
        return self.headers([name])[0]

    def headers(self, names: Sequence[str]) -> list[StructureHeader]:
        with open_hdf5(self.path) as file:
            return [_header(self.path, _group(file, name), name) for name in names]

    def check(self, structure: Structure, name: str, *, pairs: bool = True) -> None:
        check_structure(structure, f"{self.path}: {name}", pairs=pairs)


def pack(
    structures: Iterable[Structure],
    path: str | Path,
    *,
    decimals: int | None,
    provenance: Mapping[str, Any],
) -> list[str]:
    """Write a packed file and return the names of its structures; after an error there is no file.

    Args:
        structures: structures with any of the matrices.
        decimals: number of decimals to which the matrices are rounded, eV; None: no rounding.
        provenance: origin of the data, in types that JSON has.

    Raises:
        DataError: a name occurs twice, or a structure is not valid.
        TraceGradError: the file cannot be written.
    """
    if decimals is not None and not 0 <= decimals <= MOST_DECIMALS:
        raise DataError(
            f"decimals is {decimals}; 0 to {MOST_DECIMALS}, or null for no rounding, are possible"
        )
    names: list[str] = []
    with replacing(path) as draft, h5py.File(draft, "w") as file:
        file.attrs["format"] = FORMAT
        file["provenance"] = json.dumps(provenance)
        for structure in structures:
            check_structure(structure, structure.name)
            if structure.name in file:
                raise DataError(f"{path}: two structures are called {structure.name}; rename one")
            _pack_one(file.create_group(structure.name), structure, decimals)
            names.append(structure.name)
        if not names:
            raise DataError(f"{path}: no structures to pack; give at least one")
    return names


def packed_names(path: Path) -> list[str]:
    """Names of the structures of a packed file, sorted."""
    names: list[str] = []

    def visit(name: str, entry: Any) -> None:
        if isinstance(entry, h5py.Group) and "numbers" in entry:
            names.append(name)

    with open_hdf5(path) as file:
        if file.attrs.get("format") != FORMAT:
            raise DataError(
                f"{path}: no packed crystals ({FORMAT!r} is not its format); write one with "
                "tracegrad pack, or give a folder of structures"
            )
        file.visititems(visit)
    return sorted(names)


def _pack_one(group: h5py.Group, structure: Structure, decimals: int | None) -> None:
    group.attrs["shells"] = json.dumps(structure.shells)
    group.attrs["spinful"] = structure.spinful
    if structure.fermi_level is not None:
        group.attrs["fermi_level"] = structure.fermi_level
    for name in ("numbers", "positions", "lattice"):
        group[name] = getattr(structure, name)
    edges = structure.edges
    reverse = reversed_edges(edges[:, :3], edges[:, 3:].T)
    kept = np.arange(len(edges)) <= reverse
    compression: dict[str, Any] = {"shuffle": True, "compression": "gzip", "compression_opts": 9}
    group.create_dataset("edges", data=edges[kept].astype(np.int32), **compression)
    for matrix in MATRICES:
        entries = getattr(structure, matrix)
        if entries is None:
            continue
        basis = structure.basis_of(matrix)
        starts = block_starts(edges[:, 3:].T, structure.numbers, basis)
        # Without the mean, on-site blocks that are not exactly hermitian could round to different numbers.
        if decimals is not None:
            daggers = _daggers(entries, edges, structure.numbers, basis)
            entries = (entries + reordered(daggers, starts, reverse)) / 2
        entries = entries[np.repeat(kept, np.diff(starts))]
        values = np.stack([entries.real, entries.imag] if np.iscomplexobj(entries) else [entries])
        if decimals is not None:
            values = np.rint(values * 10.0**decimals).astype(np.int64)
        dataset = group.create_dataset(matrix, data=values, chunks=values.shape, **compression)
        if decimals is not None:
            dataset.attrs["decimals"] = decimals


def _read_group(path: Path, group: h5py.Group, name: str, names: Sequence[str]) -> Structure:
    where = f"{path}: {name}"
    numbers, shells, spinful, fermi_level = _header(path, group, name)
    half = read_dataset(group, "edges", "iu", (-1, 5)).astype(np.int64)
    if not len(half) or half[:, 3:].min() < 0 or half[:, 3:].max() >= len(numbers):
        raise DataError(f"{where}: the edges do not fit {len(numbers)} atoms; pack it again")
    mirrored = np.concatenate([-half[:, :3], half[:, :2:-1]], axis=1)
    other = (half != mirrored).any(1)
    edges = np.concatenate([half, mirrored[other]])
    order = edge_order(edges)
    matrices: dict[str, np.ndarray] = {}
    for matrix in names:
        basis = basis_of_matrix(matrix, shells, spinful)
        size = int(block_starts(half[:, 3:].T, numbers, basis)[-1])
        stored = read_dataset(group, matrix, "if", (2 if basis.spinful else 1, size))
        decimals = group[matrix].attrs.get("decimals")
        if (decimals is None) != (stored.dtype.kind == "f"):
            raise DataError(f"{where}: {matrix} is {stored.dtype} with decimals {decimals}; pack it again")
        values = stored.astype(np.float64) if decimals is None else stored / 10.0 ** int(decimals)
        first = values[0] + 1j * values[1] if basis.spinful else values[0]
        second = _daggers(first, half, numbers, basis)
        starts = block_starts(half[:, 3:].T, numbers, basis)
        kept = np.repeat(other, np.diff(starts))
        entries = np.concatenate([first, second[kept]])
        matrices[matrix] = reordered(entries, block_starts(edges[:, 3:].T, numbers, basis), order)
    return Structure(
        name=name,
        numbers=numbers,
        positions=read_dataset(group, "positions", "f", (len(numbers), 3)).astype(np.float64),
        lattice=read_dataset(group, "lattice", "f", (3, 3)).astype(np.float64),
        shells=shells,
        spinful=spinful,
        fermi_level=fermi_level,
        edges=edges[order],
        **matrices,
    )


def _header(path: Path, group: h5py.Group, name: str) -> StructureHeader:
    numbers = read_dataset(group, "numbers", "iu", (-1,)).astype(np.int64)
    try:
        table = json.loads(group.attrs["shells"])
        shells = {int(number): tuple(map(int, degrees)) for number, degrees in table.items()}
        shells = dict(OrbitalBasis.openmx(shells).shells)
        spinful = bool(group.attrs["spinful"])
        level = group.attrs.get("fermi_level")
        fermi_level = None if level is None else float(level)
        missing = set(numbers.tolist()) - shells.keys()
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError, DataError) as error:
        raise DataError(
            f"{path}: {name}: shells, spinful or fermi_level are not understood ({error}); pack it again"
        ) from error
    if missing or not len(numbers):
        raise DataError(f"{path}: {name}: no shells for the elements {sorted(missing)}; pack it again")
    return StructureHeader(numbers, shells, spinful, fermi_level)


def _daggers(
    entries: Shaped[np.ndarray, " entries"],
    edges: Int64[np.ndarray, "pairs 5"],
    numbers: Int64[np.ndarray, " atoms"],
    basis: OrbitalBasis,
) -> Shaped[np.ndarray, " entries"]:
    """Entries of the dagger of each block, at the position of the block."""
    result = np.empty_like(entries)
    for _, where in species_entries(edges, numbers, basis):
        blocks = entries[where].conj().swapaxes(1, 2)
        result[where.reshape(blocks.shape)] = blocks
    return result


def _group(file: h5py.File, name: str) -> h5py.Group:
    group = file.get(name)
    if not isinstance(group, h5py.Group):
        raise DataError(f"{file.filename}: {name} is gone; the file changed after it was opened")
    return group
