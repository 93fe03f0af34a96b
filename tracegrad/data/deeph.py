"""Crystal structures with their Hamiltonians in the folders of DeepH-pack and DeepH-E3.

The format of the released databases has, for N atoms,

| file                             | content                                                            |
|----------------------------------|--------------------------------------------------------------------|
| ``element.dat``                  | atomic numbers, one a line (symbols are understood too)            |
| ``site_positions.dat``           | 3 x N, cartesian, angstrom                                         |
| ``lat.dat``, ``rlat.dat``        | 3 x 3, columns are lattice vectors, angstrom; 2 pi inv(lat)^T      |
| ``orbital_types.dat``            | the degrees of the shells, one atom a line, ascending              |
| ``info.json``                    | ``isspinful``; ``fermi_level`` in eV                               |
| ``hamiltonians.h5``              | a dataset for each key ``"[Rx, Ry, Rz, i, j]"``, i and j from 1    |
| ``overlaps.h5``                  | the same for the overlap                                           |

A dataset is the block <i in cell 0| H |j in cell R>, in eV, of shape (n_i, n_j); with spin-orbit coupling it is
complex and (2 n_i, 2 n_j) with spin outermost, [[uu, ud], [du, dd]]. Overlaps are real and without spin. The orbitals
of a shell are in OpenMX's order.

The format of DeepH-dock (``POSCAR``, ``info.json`` with ``elements_orbital_map``, ``hamiltonian.h5`` and
``overlap.h5`` with ``atom_pairs``, ``chunk_shapes``, ``chunk_boundaries`` and ``entries``) is read as well. There the
orbitals of a shell are in the order m = -l .. l and become OpenMX's here. Overlaps repeated for both spins and
Hamiltonians in two parts (``split_hkb``) are not read. Only the first format is written.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from jaxtyping import Float, Int64, Shaped

from tracegrad.atomic import sync
from tracegrad.basis import CONVENTIONS, OrbitalBasis, shells_name
from tracegrad.blocks import block_starts
from tracegrad.errors import DataError
from tracegrad.graph import reversed_edges

HERMITICITY_TOLERANCE = 1e-5  # eV; real data have 1e-8
SMALLEST_DISTANCE = 0.3  # angstrom
MATRIX_FILES = {"hamiltonian": "hamiltonians.h5", "overlap": "overlaps.h5"}
TEXT_FILES = ("element.dat", "site_positions.dat", "lat.dat", "rlat.dat", "orbital_types.dat", "info.json")
NEWER_MATRIX_FILES = {"hamiltonian": "hamiltonian.h5", "overlap": "overlap.h5"}
_KEY = re.compile(r"\[(-?\d{1,9}), ?(-?\d{1,9}), ?(-?\d{1,9}), ?(\d{1,9}), ?(\d{1,9})\]", re.ASCII)
# Files that show that a folder is meant to be a structure, whatever else may be missing.
_SIGNS = ("element.dat", "site_positions.dat", "POSCAR", *MATRIX_FILES.values(), *NEWER_MATRIX_FILES.values())


@dataclass(frozen=True, eq=False)
class Structure:
    """A crystal with the blocks of its matrices.

    Args:
        name: what messages and splits call it.
        numbers: atomic numbers.
        positions: angstrom.
        lattice: rows are lattice vectors, angstrom.
        shells: ascending degrees of the shells of each element (by atomic number).
        spinful: the Hamiltonian has spin blocks.
        fermi_level: eV.
        edges: rows [Rx, Ry, Rz, i, j], atoms counted from 0, in the order of `edge_order`.
        hamiltonian: eV, all blocks one behind the other, complex128 when spinful, else float64.
        overlap: the same for the overlap, always real and without spin.
    """

    name: str
    numbers: Int64[np.ndarray, " atoms"]
    positions: Float[np.ndarray, "atoms 3"]
    lattice: Float[np.ndarray, "3 3"]
    shells: dict[int, tuple[int, ...]]
    spinful: bool
    fermi_level: float | None
    edges: Int64[np.ndarray, "pairs 5"]
    hamiltonian: Shaped[np.ndarray, " entries"] | None = None
    overlap: Float[np.ndarray, " overlaps"] | None = None

    @cached_property
    def basis(self) -> OrbitalBasis:
        """Of the Hamiltonian."""
        return openmx_basis(self.shells, self.spinful)

    def basis_of(self, matrix: str) -> OrbitalBasis:
        """Of "hamiltonian" or "overlap", which has no spin."""
        return self.basis if matrix == "hamiltonian" else openmx_basis(self.shells)

    def blocks(self, matrix: str) -> list[Shaped[np.ndarray, "rows columns"]]:
        """The blocks of "hamiltonian" or "overlap" in the order of the edges."""
        entries = getattr(self, matrix)
        if entries is None:
            raise DataError(f"{self.name}: the {matrix} has not been read")
        basis = self.basis_of(matrix)
        shapes = basis.sizes[self.numbers[self.edges[:, 3:]]]
        bounds = block_starts(self.edges[:, 3:].T, self.numbers, basis)[1:-1]
        return [block.reshape(shape) for block, shape in zip(np.split(entries, bounds), shapes, strict=True)]


def openmx_basis(shells: Mapping[int, tuple[int, ...]], spinful: bool = False) -> OrbitalBasis:
    """Basis of the given elements (by atomic number)."""
    return OrbitalBasis.openmx({number: shells[number] for number in shells}, spinful)


def is_structure_folder(folder: str | Path) -> bool:
    """Whether a folder holds any file of a structure, complete or not."""
    return any(os.path.exists(os.path.join(folder, name)) for name in _SIGNS)


def matrix_path(folder: str | Path, matrix: str) -> Path:
    """The file of "hamiltonian" or "overlap" of a structure folder in either format."""
    return Path(folder) / (NEWER_MATRIX_FILES if _is_newer(Path(folder)) else MATRIX_FILES)[matrix]


def read_header(
    folder: str | Path,
) -> tuple[Int64[np.ndarray, " atoms"], dict[int, tuple[int, ...]], bool, float | None]:
    """Atomic numbers, shells, whether H is spinful, and the Fermi level (eV): the small files of a structure."""
    folder = Path(folder)
    if not os.path.isdir(folder):
        raise DataError(f"{folder}: no such folder; give the folder of a structure")
    if _is_newer(folder):
        _, _, numbers = _read_poscar(folder / "POSCAR")
        return numbers, *_read_newer_info(folder / "info.json", numbers)
    numbers = _read_elements(folder / "element.dat")
    shells = _read_orbital_types(folder / "orbital_types.dat", numbers)
    return numbers, shells, *_read_info(folder / "info.json", "isspinful", "fermi_level")[1:]


def read_structure(folder: str | Path, *, hamiltonian: bool = True, overlap: bool = False) -> Structure:
    """Read a structure folder; at least one of the matrices has to be asked for, because it has the edges.

    Raises:
        DataError: a file is missing, unreadable or does not fit the others; the message names it.
    """
    folder = Path(folder)
    numbers, shells, spinful, fermi_level = read_header(folder)
    newer = _is_newer(folder)
    if newer:
        lattice, positions, _ = _read_poscar(folder / "POSCAR")
    else:
        lattice = _read_table(folder / "lat.dat", 3, 3).T
        positions = _read_table(folder / "site_positions.dat", 3, len(numbers)).T
    wanted = [name for name, asked in (("hamiltonian", hamiltonian), ("overlap", overlap)) if asked]
    if not wanted:
        raise DataError(f"{folder}: neither the Hamiltonian nor the overlap is asked for; ask for one")
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for matrix in wanted:
        basis = openmx_basis(shells, spinful and matrix == "hamiltonian")
        read = _read_flat if newer else read_keyed
        path = matrix_path(folder, matrix)
        found[matrix] = read(path, numbers, basis)
        _check_edges(found[matrix][0], len(numbers), str(path))
    edges = found[wanted[0]][0]
    if len(wanted) == 2:
        _check_same_edges(folder, edges, found["overlap"][0])
    structure = Structure(
        name=folder.name or folder.resolve().name,
        numbers=numbers,
        positions=np.ascontiguousarray(positions),
        lattice=np.ascontiguousarray(lattice),
        shells=shells,
        spinful=spinful,
        fermi_level=fermi_level,
        edges=edges,
        **{matrix: entries for matrix, (_, entries) in found.items()},
    )
    check_structure(structure, str(folder))
    return structure


def write_structure(structure: Structure, folder: str | Path, *, overwrite: bool = False) -> None:
    """Write a structure folder as DeepH-pack and DeepH-E3 read it: the whole folder or nothing.

    Raises:
        DataError: the folder exists and holds something (with ``overwrite``: something other than a structure),
            or cannot be written.
    """
    with _replacing_folder(Path(folder), overwrite) as draft:
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
                    file[_key(edge)] = block


def edge_order(edges: Int64[np.ndarray, "pairs 5"]) -> Int64[np.ndarray, " pairs"]:
    """Positions that sort edges by i, then the on-site one, then j, then R."""
    rx, ry, rz, i, j = edges.T
    return np.lexsort((rz, ry, rx, j, ~_on_site(edges), i))


def reordered(
    entries: Shaped[np.ndarray, " entries"],
    starts: Int64[np.ndarray, " bounds"],
    order: Int64[np.ndarray, " pairs"],
) -> Shaped[np.ndarray, " entries"]:
    """Entries of blocks (``starts`` as of `block_starts`) with the blocks in another order."""
    lengths = np.diff(starts)[order]
    shifts = starts[order] - (np.cumsum(lengths) - lengths)
    return entries[np.repeat(shifts, lengths) + np.arange(len(entries))]


def species_entries(
    edges: Int64[np.ndarray, "pairs 5"], numbers: Int64[np.ndarray, " atoms"], basis: OrbitalBasis
) -> Iterator[tuple[Int64[np.ndarray, " chosen"], Int64[np.ndarray, "chosen rows columns"]]]:
    """For each pair of species: its edges, and where the entries of their blocks are."""
    starts = block_starts(edges[:, 3:].T, numbers, basis)
    species = numbers[edges[:, 3:]]
    for pair in np.unique(species, axis=0):
        chosen = np.flatnonzero((species == pair).all(1))
        rows, columns = basis.sizes[pair]
        inside = np.arange(rows * columns).reshape(rows, columns)
        yield chosen, starts[chosen][:, None, None] + inside


def hermiticity_error(structure: Structure, matrix: str = "hamiltonian") -> tuple[float, int]:
    """Largest |H(R, i, j) - H(-R, j, i)^dagger|, in eV for H, and the position of its edge."""
    edges, entries = structure.edges, getattr(structure, matrix)
    reverse = reversed_edges(edges[:, :3], edges[:, 3:].T)
    basis = structure.basis_of(matrix)
    starts = block_starts(edges[:, 3:].T, structure.numbers, basis)
    errors = np.zeros(len(edges))
    for chosen, where in species_entries(edges, structure.numbers, basis):
        _, rows, columns = where.shape
        mirrored = np.arange(rows * columns).reshape(columns, rows).T
        partner = entries[starts[reverse[chosen]][:, None, None] + mirrored].conj()
        errors[chosen] = np.abs(entries[where] - partner).max((1, 2))
    worst = int(errors.argmax())
    return float(errors[worst]), worst


def check_structure(structure: Structure, where: str) -> None:
    """Raise `DataError`, with ``where`` as the place, unless the parts of a structure fit each other.

    Checked are the elements, the geometry, that the edges come in both directions and include all on-site ones,
    and that the matrices are finite and hermitian.
    """
    _check_geometry(structure, where)
    edges = structure.edges
    _check_edges(edges, len(structure.numbers), where)
    for matrix in MATRIX_FILES:
        entries = getattr(structure, matrix)
        if entries is None:
            continue
        starts = block_starts(edges[:, 3:].T, structure.numbers, structure.basis_of(matrix))
        if len(entries) != starts[-1]:
            raise DataError(
                f"{where}: the {matrix} has {len(entries)} entries, but the blocks of the basis "
                f"{structure.basis_of(matrix).name} have {starts[-1]}; the data are damaged"
            )
        bad = np.flatnonzero(~np.isfinite(entries))
        if len(bad):
            edge = edges[np.searchsorted(starts, bad[0], side="right") - 1]
            raise DataError(
                f"{where}: NaN or infinite numbers in the {matrix}, first in block {_key(edge)}; "
                "leave this structure out or recompute it"
            )
        largest, worst = hermiticity_error(structure, matrix)
        if largest > HERMITICITY_TOLERANCE:
            rx, ry, rz, i, j = edges[worst].tolist()
            unit = " eV" if matrix == "hamiltonian" else ""
            raise DataError(
                f"{where}: the {matrix} is not hermitian: block {_key(edges[worst])} and the dagger of "
                f"{_key([-rx, -ry, -rz, j, i])} differ by {largest:.1e}{unit} (at most {HERMITICITY_TOLERANCE:.0e}); "
                "leave this structure out or recompute it"
            )


def _check_geometry(structure: Structure, where: str) -> None:
    numbers, positions, lattice = structure.numbers, structure.positions, structure.lattice
    if not len(numbers) or numbers.min() < 1 or numbers.max() >= len(chemical_symbols):
        raise DataError(f"{where}: {numbers.tolist()} are not all atomic numbers; correct the elements")
    for what, values in (("positions", positions), ("lattice", lattice)):
        if not np.isfinite(values).all():
            raise DataError(f"{where}: NaN or infinite numbers in the {what}; correct them")
    volume = abs(np.linalg.det(lattice))
    if not volume > 1e-6 * np.prod(np.linalg.norm(lattice, axis=1)):
        raise DataError(
            f"{where}: the lattice vectors {lattice.tolist()} span no volume; give three independent ones"
        )
    inverse = np.linalg.inv(lattice)
    for i in range(1, len(numbers)):
        fractional = (positions[:i] - positions[i]) @ inverse
        distances = np.linalg.norm((fractional - np.rint(fractional)) @ lattice, axis=1)
        j = int(distances.argmin())
        if distances[j] < SMALLEST_DISTANCE:
            raise DataError(
                f"{where}: atoms {j + 1} and {i + 1} (counted from 1) are {distances[j]:.2g} angstrom apart "
                f"(at least {SMALLEST_DISTANCE}); correct the positions or their unit"
            )


def _check_edges(edges: Int64[np.ndarray, "pairs 5"], atoms: int, where: str) -> None:
    if not len(edges):
        raise DataError(f"{where}: no blocks; a matrix has at least the on-site ones")
    outside = edges[(edges[:, 3:].min(1) < 0) | (edges[:, 3:].max(1) >= atoms)]
    if len(outside):
        raise DataError(
            f"{where}: the edge {outside[0].tolist()} (atoms counted from 0) does not fit {atoms} atoms"
        )
    try:
        reversed_edges(edges[:, :3], edges[:, 3:].T)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    lone = np.setdiff1d(np.arange(atoms), edges[_on_site(edges), 3])
    if len(lone):
        raise DataError(
            f"{where}: the on-site block {_key([0, 0, 0, *lone[[0, 0]].tolist()])} is missing; add it"
        )


def _check_same_edges(folder: Path, edges: np.ndarray, others: np.ndarray) -> None:
    if np.array_equal(edges, others):
        return
    first, second = (set(map(tuple, array.tolist())) for array in (edges, others))
    paths = [matrix_path(folder, matrix).name for matrix in MATRIX_FILES]
    edge, lacking = next(iter([(e, 1) for e in first - second] + [(e, 0) for e in second - first]))
    raise DataError(
        f"{folder}: {paths[lacking]} has no block {_key(edge)}, but {paths[1 - lacking]} has; "
        "H and S need the same pairs"
    )


def _is_newer(folder: Path) -> bool:
    return os.path.exists(folder / "POSCAR") and not os.path.exists(folder / "element.dat")


def _on_site(edges: np.ndarray) -> np.ndarray:
    return (edges[:, :3] == 0).all(1) & (edges[:, 3] == edges[:, 4])


def _key(edge: Sequence[int] | np.ndarray) -> str:
    """The key of an edge in the files; atoms are counted from 1 there."""
    rx, ry, rz, i, j = (int(value) for value in edge)
    return f"[{rx}, {ry}, {rz}, {i + 1}, {j + 1}]"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read ({reason}); a structure folder needs it as text") from error


def _rows(path: Path, convert: Callable[[str], Any], what: str) -> list[list[Any]]:
    """The words of all lines that are not empty."""
    rows = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        try:
            words = [convert(word) for word in line.split()]
        except (ValueError, OverflowError, KeyError) as error:
            raise DataError(f"{path}: line {number} is {line.strip()[:80]!r}; {what} are needed") from error
        if words:
            rows.append(words)
    return rows


def _read_table(path: Path, rows: int, columns: int) -> Float[np.ndarray, "rows columns"]:
    table = _rows(path, float, "numbers")
    lengths = {len(row) for row in table}
    if len(table) != rows or lengths != {columns}:
        raise DataError(
            f"{path}: {len(table)} lines of {sorted(lengths)} numbers, but {rows} lines of {columns} are needed "
            "(columns are vectors; one position for each line of element.dat)"
        )
    return np.array(table, dtype=np.float64)


def _element(word: str) -> int:
    number = atomic_numbers.get(word)
    number = number if number is not None else int(value) if (value := float(word)).is_integer() else 0
    if not 0 < number < len(chemical_symbols):
        raise ValueError
    return number


def _read_elements(path: Path) -> Int64[np.ndarray, " atoms"]:
    found = [number for row in _rows(path, _element, "atomic numbers") for number in row]
    if not found:
        raise DataError(f"{path}: no atoms; one atomic number a line is needed")
    return np.array(found, dtype=np.int64)


def _read_orbital_types(path: Path, numbers: np.ndarray) -> dict[int, tuple[int, ...]]:
    rows = _rows(path, int, "the degrees of shells, such as 0 0 1 1 2,")
    if len(rows) != len(numbers):
        raise DataError(f"{path}: {len(rows)} lines, but element.dat has {len(numbers)} atoms; give one each")
    shells: dict[int, tuple[int, ...]] = {}
    for atom, (number, degrees) in enumerate(zip(numbers.tolist(), map(tuple, rows), strict=True), 1):
        if list(degrees) != sorted(degrees) or degrees[0] < 0 or degrees[-1] > 6:
            raise DataError(
                f"{path}: atom {atom} has shells of degrees {list(degrees)}; ascending degrees from 0 to 6 "
                "are needed"
            )
        if shells.setdefault(number, degrees) != degrees:
            raise DataError(
                f"{path}: atom {atom} ({chemical_symbols[number]}) has shells {shells_name(degrees)}, but an "
                f"earlier one of this element {shells_name(shells[number])}; one set for each element is supported"
            )
    return {number: shells[number] for number in sorted(shells)}


def _read_info(path: Path, spin_key: str, fermi_key: str) -> tuple[dict[str, Any], bool, float | None]:
    try:
        info = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: no JSON ({error}); write it as json.dumps does") from error
    spinful = info.get(spin_key) if isinstance(info, dict) else None
    if not isinstance(spinful, bool):
        raise DataError(f"{path}: {spin_key} is {spinful!r}; true or false is needed")
    level = info.get(fermi_key)
    if level is not None and not (type(level) in (int, float) and abs(level) < 1e6):
        raise DataError(f"{path}: {fermi_key} is {level!r}; a number in eV is needed")
    return info, spinful, None if level is None else float(level)


def _read_newer_info(
    path: Path, numbers: np.ndarray
) -> tuple[dict[int, tuple[int, ...]], bool, float | None]:
    info, spinful, fermi_level = _read_info(path, "spinful", "fermi_energy_eV")
    if info.get("split_hkb") or info.get("hamiltonian_storage", "full") != "full":
        raise DataError(f"{path}: H is stored in two parts (split_hkb); store the whole Hamiltonian")
    if info.get("atoms_quantity", len(numbers)) != len(numbers):
        raise DataError(
            f"{path}: atoms_quantity is {info['atoms_quantity']!r}, but POSCAR has {len(numbers)}; correct one"
        )
    table = info.get("elements_orbital_map")
    shells = {}
    for number in sorted(set(numbers.tolist())):
        symbol = chemical_symbols[number]
        degrees = table.get(symbol) if isinstance(table, dict) else None
        understood = isinstance(degrees, list) and all(type(d) is int and 0 <= d <= 6 for d in degrees)
        if not understood or not degrees or degrees != sorted(degrees):
            raise DataError(
                f"{path}: elements_orbital_map has {degrees!r} for {symbol}; ascending degrees such as "
                "[0, 0, 1] are needed"
            )
        shells[number] = tuple(degrees)
    return shells, spinful, fermi_level


def _read_poscar(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lattice (rows), positions (angstrom) and atomic numbers."""
    lines = _text(path).splitlines()
    try:
        scale = float(lines[1])
        lattice = scale * np.array([[float(word) for word in line.split()[:3]] for line in lines[2:5]])
        symbols, counts = lines[5].split(), [int(word) for word in lines[6].split()]
        kinds = [atomic_numbers[symbol] for symbol in symbols]
        if sum(counts) > len(lines):
            raise ValueError(f"{sum(counts)} atoms in {len(lines)} lines")
        numbers = np.repeat(np.array(kinds, dtype=np.int64), counts)
        if scale <= 0 or lattice.shape != (3, 3) or not len(numbers):
            raise ValueError("scale, lattice or counts")
        start = 8 if not lines[7].strip().lower().startswith("s") else 9
        cartesian = lines[start - 1].strip()[:1].lower() in {"c", "k"}
        rows = lines[start : start + len(numbers)]
        positions = np.array([[float(word) for word in line.split()[:3]] for line in rows])
        if positions.shape != (len(numbers), 3):
            raise ValueError("positions")
    except (ValueError, OverflowError, KeyError, IndexError) as error:
        raise DataError(
            f"{path}: not understood ({error}); a POSCAR with a positive scale, symbols and counts is needed"
        ) from error
    return lattice, positions * scale if cartesian else positions @ lattice, numbers


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file for reading; what HDF5 says of damage becomes a `DataError`."""
    if not os.path.isfile(path):
        raise DataError(f"{path}: no such file; give an HDF5 file")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:
        raise DataError(
            f"{path}: not a readable HDF5 file ({error}); it is damaged or of another kind"
        ) from error


def read_keyed(
    path: Path, numbers: np.ndarray, basis: OrbitalBasis
) -> tuple[Int64[np.ndarray, "pairs 5"], Shaped[np.ndarray, " entries"]]:
    """Edges and entries of a file with a dataset for each block, in the order of `edge_order`."""
    with opened(path) as file:
        keys = list(file)
        edges = np.array([_parsed(path, key, len(numbers)) for key in keys], dtype=np.int64).reshape(-1, 5)
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
                found = f"{dataset.dtype} of shape {dataset.shape}" if block else "no array"
                raise _wrong_block(path, keys[position], found, shape, entries.dtype, basis)
            entries[starts[n] : starts[n + 1]] = dataset[()].ravel()
    return edges, entries


def _parsed(path: Path, key: str, atoms: int) -> list[int]:
    match = _KEY.fullmatch(key)
    if match is None:
        raise DataError(
            f"{path}: the key {key[:80]!r} is not five integers; keys are written [Rx, Ry, Rz, i, j]"
        )
    rx, ry, rz, i, j = map(int, match.groups())
    if not (1 <= i <= atoms and 1 <= j <= atoms):
        raise DataError(f"{path}: key {key} names an atom that is not among 1 to {atoms}; correct the file")
    return [rx, ry, rz, i - 1, j - 1]


def _wrong_block(
    path: Path, key: str, found: str, shape: tuple[int, ...], dtype: np.dtype, basis: OrbitalBasis
) -> DataError:
    return DataError(
        f"{path}: block {key} is {found}, but {dtype} of shape {shape} is needed for the shells "
        f"{basis.name}; correct the shells, or whether the structure is spinful (info.json), or the file"
    )


def _read_flat(
    path: Path, numbers: np.ndarray, basis: OrbitalBasis
) -> tuple[Int64[np.ndarray, "pairs 5"], Shaped[np.ndarray, " entries"]]:
    """The same of a file of the newer format; orbitals m = -l .. l become OpenMX's order."""
    dtype = np.dtype(np.complex128 if basis.spinful else np.float64)
    with opened(path) as file:
        edges = dataset_of(file, "atom_pairs", "iu", (-1, 5)).astype(np.int64)
        _check_edges(edges, len(numbers), str(path))
        shapes = dataset_of(file, "chunk_shapes", "iu", (len(edges), 2))
        needed = basis.sizes[numbers[edges[:, 3:]]]
        wrong = np.flatnonzero((shapes != needed).any(1))
        if len(wrong):
            key, shape = _key(edges[wrong[0]]), tuple(needed[wrong[0]].tolist())
            raise _wrong_block(path, key, f"of shape {tuple(shapes[wrong[0]].tolist())}", shape, dtype, basis)
        starts = block_starts(edges[:, 3:].T, numbers, basis)
        bounds = dataset_of(file, "chunk_boundaries", "iu", (len(starts),))
        if (bounds != starts).any():
            raise DataError(f"{path}: chunk_boundaries do not fit chunk_shapes; write the file again")
        entries = dataset_of(file, "entries", dtype.kind, (int(starts[-1]),)).astype(dtype)
    places = {z: _openmx_places(basis, z) for z in basis.elements}
    for chosen, where in species_entries(edges, numbers, basis):
        dst, src = numbers[edges[chosen[0], 3:]].tolist()
        entries[where] = entries[where][:, places[dst][:, None], places[src]]
    order = edge_order(edges)
    return edges[order], reordered(entries, starts, order)


def dataset_of(file: h5py.Group, name: str, kinds: str, shape: tuple[int, ...]) -> np.ndarray:
    """An array of an HDF5 file whose kinds of numbers and shape (-1: any length) are checked before it is read."""
    dataset = file.get(name)
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise DataError(f"{file.file.filename}: {file.name}: no array {name!r}, found {sorted(file)[:10]}")
    fits = len(dataset.shape) == len(shape) and all(
        n in (-1, m) for n, m in zip(shape, dataset.shape, strict=True)
    )
    if not fits or dataset.dtype.kind not in kinds:
        raise DataError(
            f"{file.file.filename}: {dataset.name} is {dataset.dtype} of shape {dataset.shape}, but shape "
            f"{shape} of kind {'/'.join(kinds)} is needed; the file is damaged or of another kind"
        )
    return dataset[()]


def _openmx_places(basis: OrbitalBasis, number: int) -> Int64[np.ndarray, " rows"]:
    """For each orbital of an atom in OpenMX's order, its place among shells ordered m = -l .. l."""
    places: list[int] = []
    for degree in basis.shells[number]:
        back = np.argsort(CONVENTIONS["openmx"].get(degree, range(2 * degree + 1)))
        places += [len(places) + int(place) for place in back]
    return np.concatenate([np.array(places) + s * len(places) for s in range(basis.spins)])


@contextmanager
def _replacing_folder(folder: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary folder that takes the place of ``folder`` once the block ends without an error."""
    folder = Path(os.path.abspath(folder))
    draft, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    try:
        if os.path.lexists(folder) and not os.path.isdir(folder):
            raise DataError(f"{folder}: exists and is no folder; choose another place")
        content = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        if content and not overwrite:
            raise DataError(
                f"{folder}: exists and holds {content[:5]}; choose another place or set overwrite"
            )
        foreign = [name for name in content if name not in {*TEXT_FILES, *MATRIX_FILES.values()}]
        if foreign:
            raise DataError(
                f"{folder}: holds {foreign[:5]}, which overwriting would lose; choose another place"
            )
        draft.mkdir(parents=True)
        yield draft
        for path in (*draft.iterdir(), draft):
            sync(path)
        if content:
            folder.rename(old)
        try:
            draft.rename(folder)
        except OSError:
            if content:
                old.rename(folder)
            raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"{folder}: cannot be written ({reason}); choose another place") from error
    finally:
        for leftover in (draft, old):
            shutil.rmtree(leftover, ignore_errors=True)
