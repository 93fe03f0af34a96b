"""One packed HDF5 file with a database of crystals.

A packed file has a group for each structure, named like its folder, with

| entry                       | content                                                                       |
|-----------------------------|-------------------------------------------------------------------------------|
| ``numbers``                 | (atoms,) int64                                                                |
| ``positions``, ``lattice``  | (atoms, 3) and (3, 3) float64, angstrom; rows are vectors                     |
| ``edges``                   | (pairs, 5) int32 [Rx, Ry, Rz, i, j], atoms from 0; one of each hermitian pair |
| ``hamiltonian``, ``overlap`` | (1 or 2, entries): blocks of ``edges``; real parts, then imaginary ones with spin |
| attributes                  | ``shells`` (JSON), ``spinful``, ``fermi_level`` (eV, if known)                |

Numbers of a matrix are float64, or int64 in units of 10^-decimals eV (attribute ``decimals`` of the dataset), then of
the mean of the two blocks of a pair. The other block is rebuilt as the dagger of the stored one. The attribute
``format`` and the text ``provenance`` (JSON) belong to the file.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Int64, Shaped

from tracegrad.data.crystals.hdf5 import dataset_of, opened
from tracegrad.data.crystals.structure import (
    MATRICES,
    Structure,
    check_structure,
    edge_order,
    openmx_basis,
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

Header = tuple[Int64[np.ndarray, " atoms"], dict[int, tuple[int, ...]], bool, float | None]


def pack(
    structures: Iterable[Structure],
    path: str | Path,
    *,
    decimals: int | None,
    provenance: Mapping[str, Any],
) -> list[str]:
    """Write a packed file, whole or not at all, and return the names in it.

    Args:
        structures: with Hamiltonian, overlap or both.
        path: of the file.
        decimals: digits after the point that the matrices are rounded to, eV; None keeps them as they are. Of each
            hermitian pair of blocks one is kept, or the mean where rounded.
        provenance: where the data come from, as JSON can hold it.

    Raises:
        DataError: a name stands twice, or a structure is not valid.
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


def unpack(path: Path, name: str, *, hamiltonian: bool, overlap: bool, pairs: bool = True) -> Structure:
    """Read and validate a structure of a packed file.

    Args:
        path: of the file.
        name: of the structure.
        hamiltonian, overlap: which matrices to read.
        pairs: as of `check_structure`.

    Raises:
        DataError: the file is damaged or the structure is not valid.
    """
    with opened(path) as file:
        structure = _unpacked(path, _group(file, name), name, hamiltonian, overlap)
    check_structure(structure, f"{path}: {name}", pairs=pairs)
    return structure


def packed_names(path: Path) -> list[str]:
    """The names of the structures of a packed file."""
    found: list[str] = []

    def visit(name: str, entry: Any) -> None:
        if isinstance(entry, h5py.Group) and "numbers" in entry:
            found.append(name)

    with opened(path) as file:
        if file.attrs.get("format") != FORMAT:
            raise DataError(
                f"{path}: no packed crystals ({FORMAT!r} is not its format); write one with "
                "python -m experiments.pack, or give a folder of structures"
            )
        file.visititems(visit)
    return sorted(found)


def packed_headers(path: Path, names: Sequence[str]) -> list[Header]:
    """The headers of structures of a packed file."""
    with opened(path) as file:
        return [_header(path, _group(file, name), name) for name in names]


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
        if (
            decimals is not None
        ):  # on-site blocks that are not quite hermitian could round to different numbers
            daggers = _daggers(entries, edges, structure.numbers, basis)
            entries = (entries + reordered(daggers, starts, reverse)) / 2
        entries = entries[np.repeat(kept, np.diff(starts))]
        values = np.stack([entries.real, entries.imag] if np.iscomplexobj(entries) else [entries])
        if decimals is not None:
            values = np.rint(values * 10.0**decimals).astype(np.int64)
        dataset = group.create_dataset(matrix, data=values, chunks=values.shape, **compression)
        if decimals is not None:
            dataset.attrs["decimals"] = decimals


def _unpacked(path: Path, group: h5py.Group, name: str, hamiltonian: bool, overlap: bool) -> Structure:
    where = f"{path}: {name}"
    numbers, shells, spinful, fermi_level = _header(path, group, name)
    half = dataset_of(group, "edges", "iu", (-1, 5)).astype(np.int64)
    if not len(half) or half[:, 3:].min() < 0 or half[:, 3:].max() >= len(numbers):
        raise DataError(f"{where}: the edges do not fit {len(numbers)} atoms; pack it again")
    mirrored = np.concatenate([-half[:, :3], half[:, :2:-1]], axis=1)
    other = (half != mirrored).any(1)
    edges = np.concatenate([half, mirrored[other]])
    order = edge_order(edges)
    matrices: dict[str, np.ndarray] = {}
    for matrix, wanted in (("hamiltonian", hamiltonian), ("overlap", overlap)):
        if not wanted:
            continue
        basis = openmx_basis(shells, spinful and matrix == "hamiltonian")
        size = int(block_starts(half[:, 3:].T, numbers, basis)[-1])
        stored = dataset_of(group, matrix, "if", (2 if basis.spinful else 1, size))
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
        positions=dataset_of(group, "positions", "f", (len(numbers), 3)).astype(np.float64),
        lattice=dataset_of(group, "lattice", "f", (3, 3)).astype(np.float64),
        shells=shells,
        spinful=spinful,
        fermi_level=fermi_level,
        edges=edges[order],
        **matrices,
    )


def _header(path: Path, group: h5py.Group, name: str) -> Header:
    numbers = dataset_of(group, "numbers", "iu", (-1,)).astype(np.int64)
    try:
        table = json.loads(group.attrs["shells"])
        shells = {int(number): tuple(map(int, degrees)) for number, degrees in table.items()}
        shells = dict(openmx_basis(shells).shells)
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
    return numbers, shells, spinful, fermi_level


def _daggers(
    entries: Shaped[np.ndarray, " entries"],
    edges: Int64[np.ndarray, "pairs 5"],
    numbers: Int64[np.ndarray, " atoms"],
    basis: OrbitalBasis,
) -> Shaped[np.ndarray, " entries"]:
    """The dagger of every block, in the place of the block."""
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
