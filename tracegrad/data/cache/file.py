"""The format of a cache: the structures of a database of crystals in one file that can be mapped into memory.

| bytes       | content                                                                                          |
|-------------|--------------------------------------------------------------------------------------------------|
| first 64    | magic, version; position, length and BLAKE2b of the index, which are zero until the file is complete |
| records     | one for each structure: 64 bytes (mark, lengths, BLAKE2b), JSON of its `CacheEntry`, arrays      |
| index       | JSON: the entries of all records in the order of the names, with the positions of their arrays   |
| stamps      | 16 bytes for each structure                                                                      |

The arrays of a record, little-endian and in this order:

| array           | shape, dtype                                                                                |
|-----------------|---------------------------------------------------------------------------------------------|
| ``hamiltonian`` | (entries,) float64 or float32, complex with spin; eV                                        |
| ``positions``   | (atoms, 3) float64, angstrom                                                                |
| ``lattice``     | (3, 3) float64, angstrom; rows are vectors                                                  |
| ``numbers``     | (atoms,) int64                                                                              |
| ``edges``       | (edges, 5) int32 [Rx, Ry, Rz, i, j], atoms from 0, in the order of `structure.edge_order`   |

The entries of H are sorted by pair of species (ascending) and then by edge: all blocks of a pair of species are
padded at once, without an index for each number. Records are appended while the cache is built, so that an
interrupted build can continue after its last complete record.
"""

import hashlib
import json
import math
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from io import FileIO

import numpy as np

from tracegrad.data.crystals.structure import Structure, species_entries
from tracegrad.errors import DataError

MAGIC = b"TraceGrad cache\n"
VERSION = 1
STAMP_BYTES = 16
_MARK = b"structure record"
_UNIT = 64
HEAD = struct.Struct("<16sQQQ24s")  # magic, version, position and length of the index, hash
_RECORD = struct.Struct("<16sQQ32s")  # mark, lengths of JSON and arrays, hash


class UnusableCache(DataError):
    """A cache of another version, or a truncated or damaged one; it can be built again."""


@dataclass(frozen=True)
class CacheEntry:
    """Description of a structure in a cache, without its arrays.

    Args:
        name: name in the database.
        stamp: hash of the sizes and times of its files (hexadecimal), see `tracegrad.data.cache.lookup`.
        content: hash of the bytes of its files.
        atoms, edges, entries: lengths of the arrays.
        dtype: dtype of the entries of H.
        shells: degrees of the shells of each element (atomic number as text, the key of JSON).
        spinful: the Hamiltonian has spin blocks.
        fermi_level: eV.
        offset: position of the arrays in the file.
    """

    name: str
    stamp: str
    content: str
    atoms: int
    edges: int
    entries: int
    dtype: str
    shells: dict[str, list[int]]
    spinful: bool
    fermi_level: float | None
    offset: int = 0

    @property
    def arrays(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Dtype and shape of each array, in the order of the record."""
        return {
            "hamiltonian": (self.dtype, (self.entries,)),
            "positions": ("<f8", (self.atoms, 3)),
            "lattice": ("<f8", (3, 3)),
            "numbers": ("<i8", (self.atoms,)),
            "edges": ("<i4", (self.edges, 5)),
        }

    @property
    def size(self) -> int:
        """Bytes of the arrays."""
        return sum(np.dtype(dtype).itemsize * math.prod(shape) for dtype, shape in self.arrays.values())


def record_of(structure: Structure, dtype: str, stamp: str, content: str) -> tuple[CacheEntry, bytes]:
    """Entry and arrays of a structure; ``dtype`` (float32 or float64) is the precision of its Hamiltonian."""
    entries = structure.hamiltonian
    if entries is None:
        raise DataError(f"{structure.name}: the hamiltonian has not been read")
    stored = entry_dtype(dtype, structure.spinful)
    groups = species_entries(structure.edges, structure.numbers, structure.basis)
    arrays = {
        "hamiltonian": np.concatenate([entries[where].ravel() for _, where in groups]),
        **{name: getattr(structure, name) for name in ("positions", "lattice", "numbers", "edges")},
    }
    entry = CacheEntry(
        name=structure.name,
        stamp=stamp,
        content=content,
        atoms=len(structure.numbers),
        edges=len(structure.edges),
        entries=len(entries),
        dtype=stored,
        shells={str(number): list(degrees) for number, degrees in structure.shells.items()},
        spinful=structure.spinful,
        fermi_level=structure.fermi_level,
    )
    return entry, b"".join(
        np.ascontiguousarray(arrays[name], dtype).tobytes() for name, (dtype, _) in entry.arrays.items()
    )


def entry_dtype(dtype: str, spinful: bool) -> str:
    """Stored dtype of the entries of H for the precision float32 or float64."""
    single = dtype == "float32"
    return ("<c8" if single else "<c16") if spinful else ("<f4" if single else "<f8")


def start(file: FileIO) -> int:
    """Empty a file and write its head; returns the position of the first record."""
    file.truncate(0)
    write_at(file, 0, HEAD.pack(MAGIC, VERSION, 0, 0, b""))
    return HEAD.size


def append(file: FileIO, place: int, entry: CacheEntry, arrays: bytes | memoryview) -> tuple[CacheEntry, int]:
    """Write a record at ``place``; returns its entry with the offset, and the position of the next record."""
    text = json.dumps(asdict(entry)).encode()
    text += b" " * (-len(text) % _UNIT)
    digest = hashlib.blake2b(text, digest_size=32)
    digest.update(arrays)
    head = _RECORD.pack(_MARK, len(text), len(arrays), digest.digest())
    write_at(file, place, b"".join((head, text, arrays, bytes(-len(arrays) % _UNIT))))
    offset = place + len(head) + len(text)
    return CacheEntry(**asdict(entry) | {"offset": offset}), offset + len(arrays) + -len(arrays) % _UNIT


def records(file: FileIO) -> Iterator[tuple[CacheEntry, memoryview]]:
    """Entries and arrays of the records of a file, finished or not, up to the first incomplete record."""
    size = os.fstat(file.fileno()).st_size
    head = read_at(file, 0, HEAD.size)
    if len(head) < HEAD.size or HEAD.unpack(head)[:2] != (MAGIC, VERSION):
        return
    place = HEAD.size
    while place + _RECORD.size <= size:
        mark, text_length, length, expected = _RECORD.unpack(read_at(file, place, _RECORD.size))
        if mark != _MARK or place + _RECORD.size + text_length + length > size:
            return
        content = memoryview(read_at(file, place + _RECORD.size, text_length + length))
        if hashlib.blake2b(content, digest_size=32).digest() != expected:
            return
        offset = place + _RECORD.size + text_length
        entry = CacheEntry(**json.loads(bytes(content[:text_length])) | {"offset": offset})
        yield entry, content[text_length:]
        place = record_end(entry)


def record_end(entry: CacheEntry) -> int:
    """Position of the record after this one."""
    return entry.offset + entry.size + -entry.size % _UNIT


def finish(file: FileIO, place: int, entries: Sequence[CacheEntry]) -> None:
    """Write index and stamps after the records, and then the head, which makes the file complete."""
    index = json.dumps([asdict(entry) for entry in entries]).encode()
    stamps = b"".join(bytes.fromhex(entry.stamp) for entry in entries)
    file.truncate(place)
    write_at(file, place, index + stamps)
    os.fsync(file.fileno())
    write_at(file, 0, HEAD.pack(MAGIC, VERSION, place, len(index), index_hash(index)))
    os.fsync(file.fileno())


def index_hash(index: bytes) -> bytes:
    """BLAKE2b of the index, 24 bytes."""
    return hashlib.blake2b(index, digest_size=24).digest()


def write_at(file: FileIO, place: int, content: bytes) -> None:
    """Write all bytes; one call of an unbuffered ``write`` may write only some of them."""
    view = memoryview(content)
    file.seek(place)
    while view:
        view = view[file.write(view) :]


def read_at(file: FileIO, place: int, length: int) -> bytes:
    """Read ``length`` bytes, or fewer at the end of the file."""
    file.seek(place)
    parts = []
    while length and (part := file.read(length)):
        parts.append(part)
        length -= len(part)
    return b"".join(parts)
