"""Databases of crystals in any of the formats that `tracegrad.data.crystal_files.formats` lists."""

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

from tracegrad.data.crystal_files.formats import READERS, find_reader, open_reader, require_path
from tracegrad.data.crystals.reader import ReaderType, StructureHeader
from tracegrad.data.crystals.spins import BOTH, in_pairs, named_spin
from tracegrad.data.crystals.structure import MATRICES, Structure
from tracegrad.elements import SYMBOLS
from tracegrad.errors import DataError
from tracegrad.hamiltonian.basis import SPINS, OrbitalBasis, shells_name


class CrystalDatabase:
    """A database as a sequence of structures, in the order of their names.

    Nothing is kept in memory; a structure is read and validated when it is accessed. No file stays open, so that an
    instance can be shared with DataLoader workers.

    Args:
        path: a packed file, a structure, or a folder of structures; those one level deeper are included and named
            ``folder/structure``.
        include: patterns of names such as ``"light_bilayer_*"``; structures that match none are left out.
        hamiltonian: read Hamiltonians.
        overlap: read overlaps.
        h0: read the H0 that a network corrects (``model.h0=data``).
        reader: class of the format, see `CrystalReader`; None: the first one of `formats.READERS` that fits.
        spin: of collinear spin-polarised calculations "up", "down" or "both"; with "both" each calculation is two
            structures, NAME_up and NAME_down, one behind the other.

    Raises:
        DataError: there is no database, no name matches, a spin is missing, or the format has no H0.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        include: str | Sequence[str] = "*",
        hamiltonian: bool = True,
        overlap: bool = False,
        h0: bool = False,
        reader: ReaderType | None = None,
        spin: str | None = None,
    ):
        self.path = Path(path)
        # Positions of structures whose edges this process has compared with their geometry.
        self._checked: set[int] = set()
        self.matrices = [
            name for name, read in zip(MATRICES, (hamiltonian, overlap, h0), strict=True) if read
        ]
        self._main_matrix = "hamiltonian" if hamiltonian else "overlap"
        require_path(self.path)
        found = find_reader(self.path, spin) if reader is None else open_reader(reader, self.path, spin)
        if found is None or not found.places:
            labels = [entry.label for entry in READERS] if found is None else [found.label]
            raise DataError(f"{self.path}: no structures in it; give {' or '.join(labels)}")
        if h0 and "h0" not in found.matrices:
            raise DataError(
                f"{self.path}: {found.label} hold no H0, which model.h0=data needs; convert them to structure "
                "folders and put h0.h5 into each (docs/targets.md), or set model.h0=null"
            )
        self.reader, self.spin, names = found, spin, list(found.places)
        patterns = [include] if isinstance(include, str) else list(include)
        self.names = [name for name in names if any(self._fits(name, pattern) for pattern in patterns)]
        if not self.names:
            raise DataError(
                f"{self.path}: none of {len(names)} structures ({', '.join(names[:5])}{', ...' * (len(names) > 5)}) "
                f"fits {patterns}; change the pattern"
            )
        if spin == BOTH:
            self.names = in_pairs(self.names, str(self.path))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: SupportsIndex) -> Structure:
        position = operator.index(index)
        position += len(self) if position < 0 else 0
        if not 0 <= position < len(self):
            raise IndexError(f"{self.path}: structure {index} of a database of {len(self)}")
        name = self.names[position]
        structure = replace(self.reader.read(name, self.matrices), name=name)
        self.reader.check(structure, name, pairs=position not in self._checked)
        self._checked.add(position)
        return structure

    @property
    def calculations(self) -> list[str]:
        """Names of the structures, one for both spins together."""
        if self.spin != BOTH:
            return self.names
        return [named_spin(name)[0] for name in self.names[:: len(SPINS)]]

    def rows_of(self, calculations: Int64[np.ndarray, " some"]) -> Int64[np.ndarray, " rows"]:
        """Positions of the structures of some of `calculations`."""
        spins = len(self) // len(self.calculations)
        return (spins * calculations[:, None] + np.arange(spins)).ravel()

    def spin_of(self, row: int) -> str | None:
        """Spin of a structure, which is None for calculations that are not collinear."""
        return named_spin(self.names[row])[1] if self.spin == BOTH else self.spin

    def files(self, name: str) -> list[Path]:
        """The files from which a structure is read; the last one has H (S if H is not read)."""
        of_h0 = self.reader.files(name, "h0")[-1:] if "h0" in self.matrices else []
        return [*of_h0, *self.reader.files(name, self._main_matrix)]

    def check_files(self) -> None:
        """Raise `DataError` for the first structure with a file that is missing or cannot be opened."""
        for name in self.names:
            self.reader.check_files(name, self._main_matrix)
            if "h0" in self.matrices:
                self.reader.check_files(name, "h0")

    @property
    def atom_counts(self) -> Int64[np.ndarray, " structures"]:
        """Number of atoms of each structure."""
        return np.array([len(header.numbers) for header in self._headers], dtype=np.int64)

    @cached_property
    def shells(self) -> dict[int, tuple[int, ...]]:
        """Degrees of the shells of each element.

        Raises:
            DataError: two structures disagree.
        """
        known_shells: dict[int, tuple[tuple[int, ...], str]] = {}
        for name, header in zip(self.names, self._headers, strict=True):
            for number, degrees in header.shells.items():
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
        kinds = {header.spinful: name for name, header in zip(self.names, self._headers, strict=True)}
        if len(kinds) > 1:
            raise DataError(
                f"{self.path}: {kinds[True]} is spinful, {kinds[False]} is not; leave one kind out (include)"
            )
        return next(iter(kinds))

    @property
    def basis(self) -> OrbitalBasis:
        """Orbital basis with the elements of all structures."""
        return OrbitalBasis.openmx(self.shells, self.spinful)

    def identity(self) -> dict[str, Any]:
        """Number of structures, size, and a hash of the names and of the size and the first MiB of each file.

        The files are the packed file, or those of the Hamiltonians (of the overlaps if H is not read). A channel of
        collinear calculations is named, too.
        """
        paths = dict.fromkeys(self.files(name)[-1] for name in self.names)
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
        channel = {} if self.spin is None else {"spin": self.spin}
        return {"structures": len(self), "bytes": total, "head_sha256": digest.hexdigest()[:16], **channel}

    def _fits(self, name: str, pattern: str) -> bool:
        """Whether a pattern fits the name of a structure or, with both spins, that of its calculation."""
        return fnmatchcase(name, pattern) or (self.spin == BOTH and fnmatchcase(named_spin(name)[0], pattern))

    @cached_property
    def _headers(self) -> list[StructureHeader]:
        return self.reader.headers(self.names)
