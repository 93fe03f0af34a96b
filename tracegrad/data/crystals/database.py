"""Databases of crystals: folders of structure folders, or one packed HDF5 file."""

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
from ase.data import chemical_symbols
from jaxtyping import Int64

from tracegrad.data.crystals.deeph import (
    check_files,
    is_structure_folder,
    matrix_path,
    read_header,
    read_structure,
)
from tracegrad.data.crystals.packed import Header, packed_headers, packed_names, unpack
from tracegrad.data.crystals.structure import Structure, openmx_basis
from tracegrad.errors import DataError
from tracegrad.hamiltonian.basis import OrbitalBasis, shells_name
from tracegrad.system.whole_files import restore_inside


class CrystalDatabase:
    """Structures in the order of their names.

    Nothing is kept in memory; a structure is read and validated when it is asked for. No file stays open, so an
    instance can be shared with DataLoader workers.

    Args:
        path: a packed file, a structure folder, or a folder of them; structures one level deeper are found too and
            named ``folder/structure``.
        include: patterns such as ``"light_bilayer_*"``; structures whose name fits none are left out.
        hamiltonian: read Hamiltonians.
        overlap: read overlaps.

    Raises:
        DataError: nothing is there, or no name fits.
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
        # Structures whose edges this process has compared with their geometry.
        self._checked: set[int] = set()
        self.hamiltonian, self.overlap = hamiltonian, overlap
        self.packed = os.path.isfile(self.path)
        if not self.packed and not os.path.isdir(self.path):
            raise DataError(
                f"{self.path}: no such database; give a folder of DeepH structures or a packed .h5 file"
            )
        found = packed_names(self.path) if self.packed else _folder_names(self.path)
        if not found:
            raise DataError(f"{self.path}: no structures in it; give a folder of DeepH structures")
        patterns = [include] if isinstance(include, str) else list(include)
        self.names = [name for name in found if any(fnmatchcase(name, pattern) for pattern in patterns)]
        if not self.names:
            raise DataError(
                f"{self.path}: none of {len(found)} structures ({', '.join(found[:5])}{', ...' * (len(found) > 5)}) "
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
        """Of a structure, where the database is a folder."""
        return self.path if is_structure_folder(self.path) else self.path / name

    def check_files(self) -> None:
        """Raise `DataError` for the first structure with a file that is missing or does not open."""
        for name in self.names if not self.packed else ():
            check_files(self.folder(name), "hamiltonian" if self.hamiltonian else "overlap")

    @property
    def atom_counts(self) -> Int64[np.ndarray, " structures"]:
        """Atoms of every structure."""
        return np.array([len(numbers) for numbers, _, _, _ in self._headers], dtype=np.int64)

    @cached_property
    def shells(self) -> dict[int, tuple[int, ...]]:
        """Degrees of the shells of every element; all structures have to agree."""
        found: dict[int, tuple[tuple[int, ...], str]] = {}
        for name, (_, shells, _, _) in zip(self.names, self._headers, strict=True):
            for number, degrees in shells.items():
                known, first = found.setdefault(number, (degrees, name))
                if known != degrees:
                    raise DataError(
                        f"{self.path}: {chemical_symbols[number]} has shells {shells_name(known)} in {first}, but "
                        f"{shells_name(degrees)} in {name}; leave one kind out (include)"
                    )
        return {number: found[number][0] for number in sorted(found)}

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers in the database, ascending."""
        return tuple(self.shells)

    @cached_property
    def spinful(self) -> bool:
        """Whether the Hamiltonians have spin; all structures have to agree."""
        kinds = {header[2]: name for name, header in zip(self.names, self._headers, strict=True)}
        if len(kinds) > 1:
            raise DataError(
                f"{self.path}: {kinds[True]} is spinful, {kinds[False]} is not; leave one kind out (include)"
            )
        return next(iter(kinds))

    @property
    def basis(self) -> OrbitalBasis:
        """Of all structures together."""
        return openmx_basis(self.shells, self.spinful)

    def identity(self) -> dict[str, Any]:
        """Number of structures, bytes, and a hash of names, sizes and the first MiB of each file.

        The file is the packed one, or those of the Hamiltonians (overlaps where H is not read).
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
    def _headers(self) -> list[Header]:
        if not self.packed:
            return [read_header(self.folder(name)) for name in self.names]
        return packed_headers(self.path, self.names)


def _folder_names(path: Path) -> list[str]:
    if is_structure_folder(path):
        return [path.name or path.resolve().name]
    found: list[str] = []
    for folder in _subfolders(path):
        if is_structure_folder(folder):
            found.append(folder.name)
        else:
            found += [
                f"{folder.name}/{inner.name}" for inner in _subfolders(folder) if is_structure_folder(inner)
            ]
    return sorted(found)


def _subfolders(path: Path) -> list[Path]:
    """Folders that are not hidden."""
    restore_inside(path)
    try:
        return [Path(entry.path) for entry in os.scandir(path) if entry.is_dir() and entry.name[0] != "."]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
