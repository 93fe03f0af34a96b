"""Databases of crystals: folders of structure folders, or packed HDF5 files."""

import hashlib
import json
import operator
import os
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Int64

from tracegrad.data.crystals.deeph import (
    check_files,
    is_structure_folder,
    matrix_path,
    read_header,
    read_structure,
)
from tracegrad.data.crystals.packed import StructureHeader, packed_headers, packed_names, unpack
from tracegrad.data.crystals.structure import Structure, openmx_basis
from tracegrad.elements import SYMBOLS
from tracegrad.errors import DataError
from tracegrad.hamiltonian.basis import OrbitalBasis, shells_name
from tracegrad.system.whole_files import restore_inside


class CrystalDatabase:
    """A database as a sequence of structures, in the order of their names.

    Nothing is kept in memory; a structure is read and validated when it is accessed. No file stays open, so that an
    instance can be shared with DataLoader workers.

    Args:
        path: a packed file, a structure folder, or a folder of structure folders; those one level deeper are included
            and named ``folder/structure``.
        include: patterns of names such as ``"light_bilayer_*"``; structures that match none are left out.
        hamiltonian: read Hamiltonians.
        overlap: read overlaps.

    Raises:
        DataError: there is no database, or no name matches.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        include: str | Sequence[str] = "*",
        hamiltonian: bool = True,
        overlap: bool = False,
    ):
        self.path = Path(path)
        # Positions of structures whose edges this process has compared with their geometry.
        self._checked: set[int] = set()
        self.hamiltonian, self.overlap = hamiltonian, overlap
        self.packed = os.path.isfile(self.path)
        if not self.packed and not os.path.isdir(self.path):
            raise DataError(
                f"{self.path}: no such database; give a folder of DeepH structures or a packed .h5 file"
            )
        names = packed_names(self.path) if self.packed else _folder_names(self.path)
        if not names:
            raise DataError(f"{self.path}: no structures in it; give a folder of DeepH structures")
        patterns = [include] if isinstance(include, str) else list(include)
        self.names = [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
        if not self.names:
            raise DataError(
                f"{self.path}: none of {len(names)} structures ({', '.join(names[:5])}{', ...' * (len(names) > 5)}) "
                f"fits {patterns}; change the pattern"
            )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: SupportsIndex) -> Structure:
        position = operator.index(index)
        position += len(self) if position < 0 else 0
        if not 0 <= position < len(self):
            raise IndexError(f"{self.path}: structure {index} of a database of {len(self)}")
        name = self.names[position]
        options = {
            "hamiltonian": self.hamiltonian,
            "overlap": self.overlap,
            "pairs": position not in self._checked,
        }
        if self.packed:
            structure = unpack(self.path, name, **options)
        else:
            structure = replace(read_structure(self.folder(name), **options), name=name)
        self._checked.add(position)
        return structure

    def folder(self, name: str) -> Path:
        """Folder of a structure; only if the database is a folder."""
        return self.path if is_structure_folder(self.path) else self.path / name

    def check_files(self) -> None:
        """Raise `DataError` for the first structure with a file that is missing or cannot be opened."""
        for name in self.names if not self.packed else ():
            check_files(self.folder(name), "hamiltonian" if self.hamiltonian else "overlap")

    @property
    def atom_counts(self) -> Int64[np.ndarray, " structures"]:
        """Number of atoms of each structure."""
        return np.array([len(numbers) for numbers, _, _, _ in self._headers], dtype=np.int64)

    @cached_property
    def shells(self) -> dict[int, tuple[int, ...]]:
        """Degrees of the shells of each element.

        Raises:
            DataError: two structures disagree.
        """
        known_shells: dict[int, tuple[tuple[int, ...], str]] = {}
        for name, (_, shells, _, _) in zip(self.names, self._headers, strict=True):
            for number, degrees in shells.items():
                known, first = known_shells.setdefault(number, (degrees, name))
                if known != degrees:
                    raise DataError(
                        f"{self.path}: {SYMBOLS[number]} has shells {shells_name(known)} in {first}, but "
                        f"{shells_name(degrees)} in {name}; leave one kind out (include)"
                    )
        return {number: known_shells[number][0] for number in sorted(known_shells)}

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers in the database, ascending."""
        return tuple(self.shells)

    @cached_property
    def spinful(self) -> bool:
        """Whether the Hamiltonians have spin blocks.

        Raises:
            DataError: two structures disagree.
        """
        kinds = {header[2]: name for name, header in zip(self.names, self._headers, strict=True)}
        if len(kinds) > 1:
            raise DataError(
                f"{self.path}: {kinds[True]} is spinful, {kinds[False]} is not; leave one kind out (include)"
            )
        return next(iter(kinds))

    @property
    def basis(self) -> OrbitalBasis:
        """Orbital basis with the elements of all structures."""
        return openmx_basis(self.shells, self.spinful)

    def identity(self) -> dict[str, Any]:
        """Number of structures, size, and a hash of the names and of the size and the first MiB of each file.

        The files are the packed file, or those of the Hamiltonians (of the overlaps if H is not read).
        """
        matrix = "hamiltonian" if self.hamiltonian else "overlap"
        paths = (
            [self.path] if self.packed else [matrix_path(self.folder(name), matrix) for name in self.names]
        )
        digest = hashlib.sha256(json.dumps(self.names).encode())
        total = 0
        for path in paths:
            try:
                with path.open("rb") as file:
                    size = os.fstat(file.fileno()).st_size
                    digest.update(size.to_bytes(8, "little") + file.read(1 << 20))
            except OSError as error:
                raise DataError(
                    f"{path}: cannot be read ({error.strerror}); complete the structure"
                ) from error
            total += size
        return {"structures": len(self), "bytes": total, "head_sha256": digest.hexdigest()[:16]}

    @cached_property
    def _headers(self) -> list[StructureHeader]:
        if not self.packed:
            return [read_header(self.folder(name)) for name in self.names]
        return packed_headers(self.path, self.names)


def _folder_names(path: Path) -> list[str]:
    """Names of the structure folders in a folder, or of the folder itself if it is one."""
    if is_structure_folder(path):
        return [path.name or path.resolve().name]
    names: list[str] = []
    for folder in _subfolders(path):
        if is_structure_folder(folder):
            names.append(folder.name)
        else:
            names += [
                f"{folder.name}/{inner.name}" for inner in _subfolders(folder) if is_structure_folder(inner)
            ]
    return sorted(names)


def _subfolders(path: Path) -> list[Path]:
    """Folders in a folder, without hidden ones."""
    restore_inside(path)
    try:
        return [Path(entry.path) for entry in os.scandir(path) if entry.is_dir() and entry.name[0] != "."]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
