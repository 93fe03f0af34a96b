"""Graphs of crystals from a cache, without a look at the files of the database."""

import json
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Int64, Shaped

from tracegrad.data.cache.file import (
    HEAD,
    MAGIC,
    STAMP_BYTES,
    VERSION,
    Entry,
    UnusableCache,
    index_hash,
    read_at,
    write_at,
)
from tracegrad.errors import BasisError, DataError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.graph import HamiltonianGraph, crystal_graph


class CrystalCache:
    """The structures of a database, read from its cache.

    The file is mapped when the first graph is asked for, in each process for itself. An instance can be sent to
    DataLoader workers; should the file be replaced in the meantime, they say so.

    Args:
        path: of the file.

    Raises:
        UnusableCache: another version, cut off, or damaged.
        DataError: no cache at all, or it cannot be read.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            with FileIO(self.path) as file:
                size = os.fstat(file.fileno()).st_size
                self._head = read_at(file, 0, HEAD.size)
                if self._head[: len(MAGIC)] != MAGIC[: len(self._head)]:
                    raise DataError(
                        f"{self.path}: no cache of TraceGrad; remove the file or choose another data.cache"
                    )
                if len(self._head) < HEAD.size:
                    raise UnusableCache(f"{self.path}: cut off")
                _, version, place, length, digest = HEAD.unpack(self._head)
                if version != VERSION:
                    raise UnusableCache(f"{self.path}: of version {version}, but this one is {VERSION}")
                index = read_at(file, place, length) if 0 < place <= place + length <= size else b""
                if not index or index_hash(index) != digest:
                    raise UnusableCache(f"{self.path}: cut off or damaged")
                self.entries = [Entry(**values) for values in json.loads(index)]
                self._stamps_at = place + length
                stamps = read_at(file, self._stamps_at, STAMP_BYTES * len(self.entries))
                if len(stamps) < STAMP_BYTES * len(self.entries):
                    raise UnusableCache(f"{self.path}: cut off")
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot be read ({error.strerror}); choose another data.cache"
            ) from error
        self.stamps = [stamps[n : n + STAMP_BYTES].hex() for n in range(0, len(stamps), STAMP_BYTES)]
        self._map: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.entries)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_map": None}

    @property
    def names(self) -> list[str]:
        """Of the structures."""
        return [entry.name for entry in self.entries]

    def graph(self, row: int, basis: OrbitalBasis, *, dtype: torch.dtype = torch.float32) -> HamiltonianGraph:
        """Labelled graph of a structure.

        Bit for bit what `crystal_graph` makes of the files, unless float32 is stored and float64 asked for.

        Args:
            row: position in the database.
            basis: must have the shells of the structure.
            dtype: real dtype of positions and labels.
        """
        entry = self.entries[row]
        for number, degrees in entry.shells.items():
            if basis.shells.get(int(number)) != tuple(degrees) or basis.spinful != entry.spinful:
                raise BasisError(
                    f"{self.path}: {entry.name} does not fit the basis {basis.name}; give the one of its files"
                )
        found, place = {}, entry.offset
        for name, (stored, shape) in entry.arrays.items():
            end = place + np.dtype(stored).itemsize * math.prod(shape)
            found[name] = self._mapped()[place:end].view(stored).reshape(shape)
            place = end
        numbers, edges, hamiltonian = found["numbers"], found["edges"], found.pop("hamiltonian")
        graph = crystal_graph(**found, basis=basis, sample_id=row, dtype=dtype)
        blocks = torch.from_numpy(_padded(hamiltonian, edges, numbers, basis))
        graph.h_edge = blocks.to(dtype.to_complex() if basis.spinful else dtype)
        return graph

    def restamp(self, stamps: Sequence[str]) -> None:
        """Keep new stamps of files whose content has been found unchanged, if the file can be written.

        Half-written stamps fit no file, and then the content is compared once more.
        """
        self.stamps = list(stamps)
        if os.stat(self.path).st_mode & 0o222 and os.access(self.path, os.W_OK):
            with suppress(OSError), FileIO(self.path, "r+") as file:
                if read_at(file, 0, HEAD.size) == self._head:
                    write_at(file, self._stamps_at, bytes.fromhex("".join(stamps)))

    def _mapped(self) -> np.ndarray:
        if self._map is None:
            try:
                found = np.memmap(self.path, np.uint8, "r").view(np.ndarray)
            except OSError as error:
                raise DataError(f"{self.path}: cannot be read ({error.strerror}); start again") from error
            if found[: HEAD.size].tobytes() != self._head:
                raise DataError(f"{self.path}: was replaced after it had been opened; start again")
            self._map = found
        return self._map


def _padded(
    entries: Shaped[np.ndarray, " entries"],
    edges: Int[np.ndarray, "edges 5"],
    numbers: Int64[np.ndarray, " atoms"],
    basis: OrbitalBasis,
) -> Shaped[np.ndarray, "edges dim dim"]:
    """What `tracegrad.hamiltonian.blocks.pad_blocks` gives, from entries in the order of the cache."""
    padded = np.empty((len(edges), basis.dim**2), entries.dtype)
    dst, src = numbers[edges[:, 3]], numbers[edges[:, 4]]
    kinds = dst * len(basis.sizes) + src
    first = 0
    for kind in np.unique(kinds):
        a, b = divmod(int(kind), len(basis.sizes))
        chosen = np.flatnonzero(kinds == kind)
        last = first + len(chosen) * int(basis.sizes[a] * basis.sizes[b])
        rows, columns = basis.slots[a][:, None], basis.slots[b]
        places = np.where((rows >= 0) & (columns >= 0), rows * basis.sizes[b] + columns, -1).ravel()
        blocks = entries[first:last].reshape(len(chosen), -1).take(places, axis=1, mode="clip")
        blocks[:, places < 0] = 0
        if len(chosen) == len(edges):
            padded = blocks
        else:
            padded[chosen] = blocks
        first = last
    return padded.reshape(len(edges), basis.dim, basis.dim)
