"""The files of a cache: a folder with an index and one safetensors file for each structure of a database of crystals.

| file              | content                                                                                     |
|-------------------|---------------------------------------------------------------------------------------------|
| ``*.safetensors`` | the arrays of a structure; its `CacheEntry` is the metadata "entry" (JSON)                  |
| ``index.json``    | version and entries of all structures in the order of the names; written last               |
| ``building``      | lock of the process that builds the cache; without an index the cache is not complete       |

The arrays of a structure:

| array           | shape, dtype                                                                                |
|-----------------|---------------------------------------------------------------------------------------------|
| ``hamiltonian`` | (entries,) float64 or float32, eV; with spin (2 entries,), real and imaginary part in turn  |
| ``positions``   | (atoms, 3) float64, angstrom                                                                |
| ``lattice``     | (3, 3) float64, angstrom; rows are vectors                                                  |
| ``numbers``     | (atoms,) int64                                                                              |
| ``h0``          | like ``hamiltonian``; only in a cache for networks that correct H0 of the data              |
| ``edges``       | (edges, 5) int32 [Rx, Ry, Rz, i, j], atoms from 0, in the order of `structure.edge_order`   |

The names of the files are hashes, so that a changed structure never takes the name of the former one.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from tracegrad.data.crystals.structure import Structure
from tracegrad.errors import DataError, TraceGradError
from tracegrad.system.text_files import write_text
from tracegrad.system.whole_files import replacing

VERSION = 2
INDEX = "index.json"
LOCK = "building"
SUFFIX = ".safetensors"
_WITH_SPIN = ("hamiltonian", "h0")  # the matrices in a cache, whose blocks have spin where H has
FORMER_MAGIC = b"TraceGrad cache\n"  # of version 1, which was a single file


class UnusableCache(DataError):
    """A cache of another version, or an incomplete or damaged one; it can be built again."""


@dataclass(frozen=True)
class CacheEntry:
    """Description of a structure in a cache.

    Args:
        name: name in the database.
        stamp: hash of the sizes and times of its files (hexadecimal), see `tracegrad.data.cache.lookup`.
        content: hash of the bytes of its files.
        dtype: precision of H and H0, float32 or float64.
        shells: degrees of the shells of each element (atomic number as text, the key of JSON).
        spinful: the Hamiltonian has spin blocks.
        fermi_level: eV.
        file: name of the file.
        size: bytes of the file.
    """

    name: str
    stamp: str
    content: str
    dtype: str
    shells: dict[str, list[int]]
    spinful: bool
    fermi_level: float | None
    file: str = ""
    size: int = 0


def write_entry(folder: Path, structure: Structure, dtype: str, stamp: str, content: str) -> CacheEntry:
    """Write the file of a structure, with its Hamiltonian, and its H0 if it was read, in this precision.

    Raises:
        TraceGradError: the file cannot be written.
    """
    if structure.hamiltonian is None:
        raise DataError(f"{structure.name}: the hamiltonian has not been read")
    entry = CacheEntry(
        name=structure.name,
        stamp=stamp,
        content=content,
        dtype=dtype,
        shells={str(number): list(degrees) for number, degrees in structure.shells.items()},
        spinful=structure.spinful,
        fermi_level=structure.fermi_level,
    )
    arrays = {
        **{
            matrix: np.ascontiguousarray(entries).view(np.float64).astype(dtype)
            for matrix in _WITH_SPIN
            if (entries := getattr(structure, matrix)) is not None
        },
        "positions": np.ascontiguousarray(structure.positions, np.float64),
        "lattice": np.ascontiguousarray(structure.lattice, np.float64),
        "numbers": np.ascontiguousarray(structure.numbers, np.int64),
        "edges": np.ascontiguousarray(structure.edges, np.int32),
    }
    text = json.dumps(asdict(entry))
    path = folder / f"{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}{SUFFIX}"
    try:
        with replacing(path) as draft:
            draft.write_bytes(save(arrays, {"entry": text}))
    except TraceGradError as error:
        raise TraceGradError(
            f"{error} (data.cache; null reads the database itself), or make room: what is built is kept"
        ) from error
    return replace(entry, file=path.name, size=path.stat().st_size)


def read_entry(path: Path) -> CacheEntry | None:
    """The entry of a file; None if it is damaged or of another kind."""
    try:
        with safe_open(path, framework="numpy") as file:
            entry = CacheEntry(**json.loads(file.metadata()["entry"]))
        return replace(entry, file=path.name, size=path.stat().st_size)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None


def read_arrays(path: Path, entry: CacheEntry) -> dict[str, np.ndarray]:
    """The arrays of a structure; H and H0 are complex with spin.

    Raises:
        DataError: the file is gone or damaged.
    """
    try:
        arrays = load_file(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: the cache was replaced after it had been opened; start again") from error
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: cannot be read ({error}); remove the cache, it is built again") from error
    if entry.spinful:
        for matrix in arrays.keys() & set(_WITH_SPIN):
            arrays[matrix] = arrays[matrix].view(f"complex{64 if entry.dtype == 'float32' else 128}")
    return arrays


def write_index(folder: Path, entries: list[CacheEntry]) -> None:
    """Write the index, which makes the cache complete."""
    index = {"version": VERSION, "structures": [asdict(entry) for entry in entries]}
    write_text(folder / INDEX, json.dumps(index))


def read_index(folder: Path) -> list[CacheEntry]:
    """The entries of a complete cache, whose files are there in their sizes.

    Raises:
        UnusableCache: a cache of another version, or an incomplete or damaged one.
        OSError: there is no index, or it cannot be read.
    """
    content = (folder / INDEX).read_bytes()
    try:
        index = json.loads(content)
        version = index["version"]
        entries = [CacheEntry(**values) for values in index["structures"]] if version == VERSION else []
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UnusableCache(f"{folder}: damaged") from error
    if version != VERSION:
        raise UnusableCache(f"{folder}: of version {version}, but this one is {VERSION}")
    sizes = {path.name: path.stat().st_size for path in folder.glob(f"*{SUFFIX}")}
    if any(sizes.get(entry.file) != entry.size for entry in entries):
        raise UnusableCache(f"{folder}: incomplete")
    return entries
