"""Structure folders of DeepH-pack and DeepH-E3: crystal structures with Hamiltonians and overlaps.

In the format of the released databases a folder of N atoms has

| file                             | content                                                            |
|----------------------------------|--------------------------------------------------------------------|
| ``element.dat``                  | atomic numbers, one per line (symbols are accepted, too)           |
| ``site_positions.dat``           | 3 x N, cartesian, angstrom                                         |
| ``lat.dat``, ``rlat.dat``        | 3 x 3, columns are lattice vectors, angstrom; 2 pi inv(lat)^T      |
| ``orbital_types.dat``            | the degrees of the shells, one atom per line, ascending            |
| ``info.json``                    | ``isspinful``; ``fermi_level`` in eV                               |
| ``hamiltonians.h5``              | a dataset for each key ``"[Rx, Ry, Rz, i, j]"``, i and j from 1    |
| ``overlaps.h5``                  | the same for the overlap                                           |
| ``h0.h5``                        | the same for an H0 on the pairs of H; our addition, optional       |

A dataset is a block as defined in `crystals.structure`. The format of `crystals.deeph_newer` is read as well; only
the first format is written.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float, Int64, Shaped

from tracegrad.data.crystal_files.deeph_newer import (
    NEWER_MATRIX_FILES,
    NEWER_TEXT_FILES,
    read_flat,
    read_newer_info,
    read_poscar,
)
from tracegrad.data.crystal_files.deeph_text import read_elements, read_info, read_orbital_types, read_table
from tracegrad.data.crystals.common_pairs import with_common_pairs
from tracegrad.data.crystals.hdf5 import open_hdf5
from tracegrad.data.crystals.reader import CrystalReader, StructureHeader
from tracegrad.data.crystals.spins import named_spin
from tracegrad.data.crystals.structure import (
    MATRICES,
    Structure,
    basis_of_matrix,
    block_key,
    check_edges,
    check_structure,
    edge_order,
    wrong_block,
)
from tracegrad.errors import DataError
from tracegrad.hamiltonian.basis import SPINS, OrbitalBasis
from tracegrad.hamiltonian.blocks import block_starts
from tracegrad.system.whole_files import replacing_folder, restore_folder

MATRIX_FILES = {"hamiltonian": "hamiltonians.h5", "overlap": "overlaps.h5", "h0": "h0.h5"}
TEXT_FILES = ("element.dat", "site_positions.dat", "lat.dat", "rlat.dat", "orbital_types.dat", "info.json")
_KEY = re.compile(r"\[(-?\d{1,9}), ?(-?\d{1,9}), ?(-?\d{1,9}), ?(\d{1,9}), ?(\d{1,9})\]", re.ASCII)
# A folder with any of these files is a structure folder, even if others are missing.
_MARKERS = (
    "element.dat",
    "site_positions.dat",
    "POSCAR",
    *MATRIX_FILES.values(),
    *NEWER_MATRIX_FILES.values(),
)


def is_structure_folder(folder: str | Path) -> bool:
    """Whether a folder is a structure folder, complete or not."""
    return any(os.path.exists(os.path.join(folder, name)) for name in _MARKERS)


def folders_of_spins(path: Path) -> dict[str, Path] | None:
    """The structure folders NAME_up and NAME_down by spin, if ``path`` is one of them or NAME and both are there."""
    if not path.name:
        return None
    name = named_spin(path.name)[0]
    folders = {spin: path.with_name(f"{name}_{spin}") for spin in SPINS}
    return folders if all(map(is_structure_folder, folders.values())) else None


def matrix_path(folder: str | Path, matrix: str) -> Path:
    """Path of one of `MATRICES` of a structure folder in either format."""
    return Path(folder) / (NEWER_MATRIX_FILES if _is_newer(Path(folder)) else MATRIX_FILES)[matrix]


class DeepHReader(CrystalReader):
    """Structure folders of DeepH, in either format."""

    label = "structure folders of DeepH"
    matrices = MATRICES

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return is_structure_folder(path)

    def read(self, name: str, matrices: Sequence[str]) -> Structure:
        return replace(_read(self.places[name], matrices), name=name)

    def header(self, name: str) -> StructureHeader:
        return read_header(self.places[name])

    def files(self, name: str, matrix: str = "hamiltonian") -> list[Path]:
        folder = self.places[name]
        # rlat.dat repeats lat.dat.
        texts = NEWER_TEXT_FILES if _is_newer(folder) else [text for text in TEXT_FILES if text != "rlat.dat"]
        return [*(folder / text for text in texts), matrix_path(folder, matrix)]

    def check_files(self, name: str, matrix: str = "hamiltonian") -> None:
        folder = self.places[name]
        if not _is_newer(folder):
            atoms = len(read_elements(folder / "element.dat"))
            read_table(folder / "lat.dat", 3, 3)
            read_table(folder / "site_positions.dat", 3, atoms)
        path = matrix_path(folder, matrix)
        _require(path, matrix)
        with open_hdf5(path):
            pass

    def check(self, structure: Structure, name: str, *, pairs: bool = True) -> None:
        _check(structure, self.places[name], pairs=pairs)


def read_header(folder: str | Path) -> StructureHeader:
    """Elements, shells, spin and Fermi level of a structure folder; no matrix is read."""
    folder = Path(folder)
    if not os.path.isdir(folder):
        with suppress(OSError):
            restore_folder(folder)
    if not os.path.isdir(folder):
        raise DataError(f"{folder}: no such folder; give the folder of a structure")
    if _is_newer(folder):
        _, _, numbers = read_poscar(folder / "POSCAR")
        return StructureHeader(numbers, *read_newer_info(folder / "info.json", numbers))
    numbers = read_elements(folder / "element.dat")
    shells = read_orbital_types(folder / "orbital_types.dat", numbers)
    _, spinful, fermi_level = read_info(folder / "info.json", "isspinful", "fermi_level")
    return StructureHeader(numbers, shells, spinful, fermi_level)


def read_structure(
    folder: str | Path,
    *,
    hamiltonian: bool = True,
    overlap: bool = False,
    h0: bool = False,
    pairs: bool = True,
) -> Structure:
    """Read a structure folder.

    Args:
        hamiltonian, overlap, h0: which matrices to read; at least one, because the edges are those of its blocks.
        pairs: see `check_structure`.

    Raises:
        DataError: a file is missing, cannot be read or contradicts the others; the message names it.
    """
    folder = Path(folder)
    names = [name for name, read in zip(MATRICES, (hamiltonian, overlap, h0), strict=True) if read]
    structure = _read(folder, names)
    _check(structure, folder, pairs=pairs)
    return structure


def _read(folder: Path, names: Sequence[str]) -> Structure:
    """A structure folder with the matrices of these names, not yet checked."""
    numbers, shells, spinful, fermi_level = read_header(folder)
    newer = _is_newer(folder)
    if newer:
        lattice, positions, _ = read_poscar(folder / "POSCAR")
    else:
        lattice = read_table(folder / "lat.dat", 3, 3).T
        positions = read_table(folder / "site_positions.dat", 3, len(numbers)).T
    if not names:
        raise DataError(f"{folder}: no matrix is asked for; ask for one")
    matrices: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for matrix in names:
        basis = basis_of_matrix(matrix, shells, spinful)
        path = matrix_path(folder, matrix)
        _require(path, matrix)
        matrices[matrix] = (read_flat if newer else read_keyed)(path, numbers, basis)
        check_edges(matrices[matrix][0], len(numbers), str(path))
    if "h0" in matrices:
        _check_h0_pairs(folder, {matrix: edges for matrix, (edges, _) in matrices.items()})
    edges, entries = with_common_pairs(matrices, numbers, shells, spinful)
    return Structure(
        name=folder.name or folder.resolve().name,
        numbers=numbers,
        positions=np.ascontiguousarray(positions),
        lattice=np.ascontiguousarray(lattice),
        shells=shells,
        spinful=spinful,
        fermi_level=fermi_level,
        edges=edges,
        **entries,
    )


def _require(path: Path, matrix: str) -> None:
    """Raise `DataError` if the file of H0, which only some folders have, is missing."""
    if matrix == "h0" and not path.is_file():
        raise DataError(
            f"{path}: no such file; a network with model.h0=data needs H0 of every structure in it, in the layout of "
            f"{matrix_path(path.parent, 'hamiltonian').name} (docs/targets.md)"
        )


def _check_h0_pairs(folder: Path, edges: Mapping[str, Int64[np.ndarray, "_ 5"]]) -> None:
    """Raise `DataError` unless H0 has the pairs of atoms of H, and at least those of S.

    Args:
        folder: of the structure.
        edges: of each matrix that was read.
    """
    path, known = matrix_path(folder, "h0"), set(map(tuple, edges["h0"].tolist()))
    for matrix, others in edges.items():
        needed, other = set(map(tuple, others.tolist())), matrix_path(folder, matrix).name
        if missing := sorted(needed - known):
            raise DataError(
                f"{path}: the block {block_key(missing[0])} is missing, which {other} has ({len(missing)} in all); "
                "H0 needs the pairs of H: add them, with zeros where H0 vanishes"
            )
        if matrix == "hamiltonian" and (more := sorted(known - needed)):
            raise DataError(
                f"{path}: has the block {block_key(more[0])}, which {other} lacks ({len(more)} in all); "
                "H0 needs the pairs of H: leave them out"
            )


def _check(structure: Structure, folder: Path, *, pairs: bool) -> None:
    newer = _is_newer(folder)
    sources = (
        "POSCAR and atom_pairs" if newer else "site_positions.dat, lat.dat and the keys [Rx, Ry, Rz, i, j]"
    )
    check_structure(structure, str(folder), sources=sources, pairs=pairs)
    if pairs and not newer:
        _check_reciprocal(folder, structure.lattice)


def write_structure(structure: Structure, folder: str | Path, *, overwrite: bool = False) -> None:
    """Write a structure folder that DeepH-pack and DeepH-E3 can read; after an error nothing is left of it.

    Raises:
        DataError: the folder is not empty (with ``overwrite``: it holds other files than those of a structure).
        TraceGradError: the folder cannot be written.
    """
    check_free(folder, overwrite=overwrite)
    with replacing_folder(folder) as draft:
        tables: dict[str, Any] = {
            "site_positions.dat": structure.positions.T,
            "lat.dat": structure.lattice.T,
            "rlat.dat": 2 * np.pi * np.linalg.inv(structure.lattice.T).T,
        }
        for name, table in tables.items():
            np.savetxt(draft / name, table, fmt="%.17g")
        (draft / "element.dat").write_text("".join(f"{z}\n" for z in structure.numbers))
        lines = (" ".join(map(str, structure.shells[int(z)])) + "\n" for z in structure.numbers)
        (draft / "orbital_types.dat").write_text("".join(lines))
        info: dict[str, Any] = {"isspinful": structure.spinful}
        if structure.fermi_level is not None:
            info["fermi_level"] = structure.fermi_level
        (draft / "info.json").write_text(json.dumps(info, indent=4) + "\n")
        for matrix, name in MATRIX_FILES.items():
            if getattr(structure, matrix) is None:
                continue
            with h5py.File(draft / name, "w") as file:
                for edge, block in zip(structure.edges.tolist(), structure.blocks(matrix), strict=True):
                    file[block_key(edge)] = block


def read_keyed(
    path: Path, numbers: np.ndarray, basis: OrbitalBasis
) -> tuple[Int64[np.ndarray, "pairs 5"], Shaped[np.ndarray, " entries"]]:
    """Edges and entries, in the order of `edge_order`, of a file with one dataset for each block."""
    with open_hdf5(path) as file:
        keys = list(file)
        edges = np.array([_parse_key(path, key, len(numbers)) for key in keys], dtype=np.int64).reshape(-1, 5)
        order = edge_order(edges)
        edges = edges[order]
        sizes = basis.sizes[numbers]
        shapes = sizes[edges[:, 3:]]
        starts = block_starts(edges[:, 3:].T, numbers, basis).tolist()
        entries = np.empty(starts[-1], dtype=np.complex128 if basis.spinful else np.float64)
        kind = entries.dtype.kind
        for n, (position, shape) in enumerate(zip(order.tolist(), map(tuple, shapes.tolist()), strict=True)):
            dataset = file[keys[position]]
            block = isinstance(dataset, h5py.Dataset)
            if not block or dataset.shape != shape or dataset.dtype.kind != kind:
                content = f"{dataset.dtype} of shape {dataset.shape}" if block else "no array"
                raise wrong_block(path, keys[position], content, shape, entries.dtype, basis)
            entries[starts[n] : starts[n + 1]] = dataset[()].ravel()
    return edges, entries


def _parse_key(path: Path, key: str, atoms: int) -> list[int]:
    """The edge [Rx, Ry, Rz, i, j] of a key; atoms are counted from 1 in the key and from 0 in the edge."""
    match = _KEY.fullmatch(key)
    if match is None:
        raise DataError(
            f"{path}: the key {key[:80]!r} is not five integers; keys are written [Rx, Ry, Rz, i, j]"
        )
    rx, ry, rz, i, j = map(int, match.groups())
    if not (1 <= i <= atoms and 1 <= j <= atoms):
        raise DataError(f"{path}: key {key} names an atom that is not among 1 to {atoms}; correct the file")
    return [rx, ry, rz, i - 1, j - 1]


def _check_reciprocal(folder: Path, lattice: Float[np.ndarray, "3 3"]) -> None:
    """Raise `DataError` if rlat.dat exists and is not the reciprocal lattice, with or without 2 pi."""
    path = folder / "rlat.dat"
    if not path.is_file():
        return
    product = lattice @ read_table(path, 3, 3)
    if not any(np.allclose(product, unit * np.eye(3), rtol=0, atol=1e-3 * unit) for unit in (2 * np.pi, 1.0)):
        raise DataError(
            f"{folder}: lat.dat and rlat.dat contradict each other; columns are vectors (angstrom, 1/angstrom) and "
            "rlat is 2 pi inv(lat)^T: correct the one that is transposed or in another unit, or remove rlat.dat"
        )


def _is_newer(folder: Path) -> bool:
    """Whether a folder has the format of `deeph_newer`."""
    return os.path.exists(folder / "POSCAR") and not os.path.exists(folder / "element.dat")


def check_free(
    folder: str | Path,
    *,
    overwrite: bool,
    own: Sequence[str] = (*TEXT_FILES, MATRIX_FILES["hamiltonian"], MATRIX_FILES["overlap"]),
) -> None:
    """Check that a result may be written into a folder.

    Args:
        overwrite: files of an earlier result may be replaced.
        own: endings of the names of such files; by default those of a structure without H0, which no command writes.

    Raises:
        DataError: nothing may be written there.
    """
    folder = Path(folder)
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise DataError(f"{folder}: exists and is no folder; choose another place")
    try:
        restore_folder(folder)
        content = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror}); choose another place") from error
    if content and not overwrite:
        raise DataError(
            f"{folder}: exists and holds {content[:5]}; choose another place or set overwrite=true"
        )
    foreign = [name for name in content if not name.endswith(tuple(own))]
    if foreign:
        raise DataError(f"{folder}: holds {foreign[:5]}, which overwriting would lose; choose another place")
