"""Graphs of crystals from a cache, without access to the files of the database."""

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
    CacheEntry,
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

    Each process maps the file into memory when it reads its first graph. An instance can be sent to DataLoader
    workers; they raise an error if the file has been replaced in the meantime.

    Args:
        path: the cache.

    Raises:
        UnusableCache: a cache of another version, or a truncated or damaged one.
        DataError: the file is not a cache, or cannot be read.
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
                self.entries = [CacheEntry(**values) for values in json.loads(index)]
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
        """Names of the structures."""
        return [entry.name for entry in self.entries]

    def graph(self, row: int, basis: OrbitalBasis, *, dtype: torch.dtype = torch.float32) -> HamiltonianGraph:
        """Labelled graph of a structure.

        It is bitwise equal to the graph made from the files, unless the cache has float32 and ``dtype`` is float64.

        Args:
            row: position in the database.
            basis: orbital basis with the shells of the structure.
            dtype: real dtype of positions and labels.

        Raises:
            BasisError: another basis.
            DataError: the file was replaced after it had been opened.
        """
        entry = self.entries[row]
        for number, degrees in entry.shells.items():
            if basis.shells.get(int(number)) != tuple(degrees) or basis.spinful != entry.spinful:
                raise BasisError(
                    f"{self.path}: {entry.name} does not fit the basis {basis.name}; give the one of its files"
                )
        arrays, place = {}, entry.offset
        for name, (stored, shape) in entry.arrays.items():
            end = place + np.dtype(stored).itemsize * math.prod(shape)
            arrays[name] = self._mapped()[place:end].view(stored).reshape(shape)
            place = end
        numbers, edges, hamiltonian = arrays["numbers"], arrays["edges"], arrays.pop("hamiltonian")
        graph = crystal_graph(**arrays, basis=basis, sample_id=row, dtype=dtype)
        blocks = torch.from_numpy(_padded(hamiltonian, edges, numbers, basis))
        graph.h_edge = blocks.to(dtype.to_complex() if basis.spinful else dtype)
        return graph

    def restamp(self, stamps: Sequence[str]) -> None:
        """Store new stamps of files whose content has not changed, if the cache can be written.

        After an interrupted write the stamps match no file, so that the content is compared again.
        """
        self.stamps = list(stamps)
        if os.stat(self.path).st_mode & 0o222 and os.access(self.path, os.W_OK):
            with suppress(OSError), FileIO(self.path, "r+") as file:
                if read_at(file, 0, HEAD.size) == self._head:
                    write_at(file, self._stamps_at, bytes.fromhex("".join(stamps)))

    def _mapped(self) -> np.ndarray:
        if self._map is None:
            try:
                content = np.memmap(self.path, np.uint8, "r").view(np.ndarray)
            except OSError as error:
                raise DataError(f"{self.path}: cannot be read ({error.strerror}); start again") from error
            if content[: HEAD.size].tobytes() != self._head:
                raise DataError(f"{self.path}: was replaced after it had been opened; start again")
            self._map = content
        return self._map


def _padded(
    entries: Shaped[np.ndarray, " entries"],
    edges: Int[np.ndarray, "edges 5"],
    numbers: Int64[np.ndarray, " atoms"],
    basis: OrbitalBasis,
) -> Shaped[np.ndarray, "edges dim dim"]:
    """`tracegrad.hamiltonian.blocks.pad_blocks` for entries in the order of the cache, see `file`."""
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
