"""Graphs of crystals from a cache, without access to the files of the database."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from tracegrad.data.cache.store import (
    FORMER_MAGIC,
    INDEX,
    LOCK,
    UnusableCache,
    read_arrays,
    read_index,
    write_index,
)
from tracegrad.errors import BasisError, DataError, TraceGradError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.graph import HamiltonianGraph, crystal_graph
from tracegrad.system.whole_files import writable


class CrystalCache:
    """The structures of a database, read from its cache.

    No file stays open, so that an instance can be sent to DataLoader workers; they raise an error if the cache has
    been replaced in the meantime.

    Args:
        path: folder of the cache.

    Raises:
        UnusableCache: a cache of another version, or an incomplete or damaged one.
        DataError: it is no cache, or cannot be read.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            if is_former_cache(self.path):
                raise UnusableCache(f"{self.path}: of an earlier version")
            if not (self.path / INDEX).is_file():
                raise DataError(f"{self.path}: no cache of TraceGrad; remove it or choose another data.cache")
            self.entries = read_index(self.path)
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot be read ({error.strerror}); choose another data.cache"
            ) from error

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def names(self) -> list[str]:
        """Names of the structures."""
        return [entry.name for entry in self.entries]

    @property
    def size(self) -> int:
        """Bytes of all structures."""
        return sum(entry.size for entry in self.entries)

    def graph(
        self,
        row: int,
        basis: OrbitalBasis,
        *,
        spin: str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> HamiltonianGraph:
        """Labelled graph of a structure.

        It is bitwise equal to the graph made from the files, unless the cache has float32 and ``dtype`` is float64.

        Args:
            row: position in the database.
            basis: orbital basis with the shells of the structure.
            spin: see `crystal_graph`.
            dtype: real dtype of positions and labels.

        Raises:
            BasisError: another basis.
            DataError: the cache was replaced after it had been opened.
        """
        entry = self.entries[row]
        for number, degrees in entry.shells.items():
            if basis.shells.get(int(number)) != tuple(degrees) or basis.spinful != entry.spinful:
                raise BasisError(
                    f"{self.path}: {entry.name} does not fit the basis {basis.name}; give the one of its files"
                )
        arrays = read_arrays(self.path / entry.file, entry)
        return crystal_graph(
            arrays["numbers"],
            arrays["positions"],
            arrays["lattice"],
            arrays["edges"],
            basis,
            entries=arrays["hamiltonian"],
            h0=arrays.get("h0"),
            spin=spin,
            sample_id=row,
            dtype=dtype,
        )

    def restamp(self, stamps: Sequence[str]) -> None:
        """Store new stamps of files whose content has not changed, if the cache can be written."""
        self.entries = [
            replace(entry, stamp=stamp) for entry, stamp in zip(self.entries, stamps, strict=True)
        ]
        if writable(self.path):
            with suppress(TraceGradError):
                write_index(self.path, self.entries)


def is_former_cache(path: Path) -> bool:
    """Whether a path is a cache of the first version, a single file."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(FORMER_MAGIC)) == FORMER_MAGIC


def is_unfinished(path: Path) -> bool:
    """Whether a path is an empty folder, or a cache whose first build has not ended."""
    content = set(os.listdir(path)) if path.is_dir() else {INDEX}
    return INDEX not in content and (not content or LOCK in content)
