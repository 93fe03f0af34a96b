"""Structure folders of DeepH-dock, the newer format, which is read but not written.

| file                               | content                                                             |
|------------------------------------|---------------------------------------------------------------------|
| ``POSCAR``                         | lattice, elements and positions                                     |
| ``info.json``                      | ``spinful``, ``elements_orbital_map``; ``fermi_energy_eV``          |
| ``hamiltonian.h5``, ``overlap.h5`` | ``atom_pairs``, ``chunk_shapes``, ``chunk_boundaries``, ``entries`` |

H0 of `tracegrad.hamiltonian.h0` is in ``h0.h5``, laid out as H; this file is our addition to the format.

The orbitals of a shell have the order m = -l .. l in the files; they are converted to the order of OpenMX. Overlaps
that are repeated for both spins and Hamiltonians in two parts (``split_hkb``) are not supported.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Int64, Shaped

from tracegrad.data.crystal_files.deeph_text import read_info, read_text
from tracegrad.data.crystals.hdf5 import open_hdf5, read_dataset
from tracegrad.data.crystals.structure import block_key, check_edges, standard_order, wrong_block
from tracegrad.elements import NUMBERS, SYMBOLS
from tracegrad.errors import DataError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.blocks import block_starts

NEWER_TEXT_FILES = ("POSCAR", "info.json")
NEWER_MATRIX_FILES = {"hamiltonian": "hamiltonian.h5", "overlap": "overlap.h5", "h0": "h0.h5"}


def read_poscar(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lattice (rows) and positions in angstrom, and atomic numbers.

    As in VASP, a negative scale is the volume of the cell (angstrom^3), and three numbers scale x, y and z.

    Raises:
        DataError: the file cannot be read or parsed.
    """
    lines = read_text(path).splitlines()
    try:
        scale = np.array([float(word) for word in lines[1].split()])
        lattice = np.array([[float(word) for word in line.split()[:3]] for line in lines[2:5]])
        if len(scale) == 1 and scale[0] < 0:
            scale = np.cbrt(-scale / abs(np.linalg.det(lattice)))
        lattice = lattice * scale
        symbols, counts = lines[5].split(), [int(word) for word in lines[6].split()]
        kinds = [NUMBERS[symbol] for symbol in symbols]
        if sum(counts) > len(lines):
            raise ValueError(f"{sum(counts)} atoms in {len(lines)} lines")
        numbers = np.repeat(np.array(kinds, dtype=np.int64), counts)
        good = len(scale) in (1, 3) and (scale > 0).all() and np.isfinite(scale).all()
        if not good or lattice.shape != (3, 3) or not len(numbers):
            raise ValueError("scale, lattice or counts")
        start = 8 if not lines[7].strip().lower().startswith("s") else 9
        cartesian = lines[start - 1].strip()[:1].lower() in {"c", "k"}
        rows = lines[start : start + len(numbers)]
        positions = np.array([[float(word) for word in line.split()[:3]] for line in rows])
        if positions.shape != (len(numbers), 3):
            raise ValueError("positions")
    except (ValueError, OverflowError, KeyError, IndexError, np.linalg.LinAlgError) as error:
        raise DataError(
            f"{path}: not understood ({error}); a POSCAR with a scale, symbols and counts is needed"
        ) from error
    return lattice, positions * scale if cartesian else positions @ lattice, numbers


def read_newer_info(path: Path, numbers: np.ndarray) -> tuple[dict[int, tuple[int, ...]], bool, float | None]:
    """Shells of each element, whether H is spinful, and the Fermi level (eV)."""
    info, spinful, fermi_level = read_info(path, "spinful", "fermi_energy_eV")
    if info.get("split_hkb") or info.get("hamiltonian_storage", "full") != "full":
        raise DataError(f"{path}: H is stored in two parts (split_hkb); store the whole Hamiltonian")
    if info.get("atoms_quantity", len(numbers)) != len(numbers):
        raise DataError(
            f"{path}: atoms_quantity is {info['atoms_quantity']!r}, but POSCAR has {len(numbers)}; correct one"
        )
    table = info.get("elements_orbital_map")
    shells = {}
    for number in sorted(set(numbers.tolist())):
        symbol = SYMBOLS[number]
        degrees = table.get(symbol) if isinstance(table, dict) else None
        understood = isinstance(degrees, list) and all(type(d) is int and 0 <= d <= 6 for d in degrees)
        if not understood or not degrees or degrees != sorted(degrees):
            raise DataError(
                f"{path}: elements_orbital_map has {degrees!r} for {symbol}; ascending degrees such as "
                "[0, 0, 1] are needed"
            )
        shells[number] = tuple(degrees)
    return shells, spinful, fermi_level


def read_flat(
    path: Path, numbers: np.ndarray, basis: OrbitalBasis
) -> tuple[Int64[np.ndarray, "pairs 5"], Shaped[np.ndarray, " entries"]]:
    """Edges and entries of a file in the order of `edge_order`, with orbitals in the order of OpenMX."""
    dtype = np.dtype(np.complex128 if basis.spinful else np.float64)
    with open_hdf5(path) as file:
        edges = read_dataset(file, "atom_pairs", "iu", (-1, 5)).astype(np.int64)
        check_edges(edges, len(numbers), str(path))
        shapes = read_dataset(file, "chunk_shapes", "iu", (len(edges), 2))
        needed = basis.sizes[numbers[edges[:, 3:]]]
        wrong = np.flatnonzero((shapes != needed).any(1))
        if len(wrong):
            key, shape = block_key(edges[wrong[0]]), tuple(needed[wrong[0]].tolist())
            raise wrong_block(path, key, f"of shape {tuple(shapes[wrong[0]].tolist())}", shape, dtype, basis)
        starts = block_starts(edges[:, 3:].T, numbers, basis)
        bounds = read_dataset(file, "chunk_boundaries", "iu", (len(starts),))
        if (bounds != starts).any():
            raise DataError(f"{path}: chunk_boundaries do not fit chunk_shapes; write the file again")
        entries = read_dataset(file, "entries", dtype.kind, (int(starts[-1]),)).astype(dtype)
    return standard_order(edges, entries, numbers, basis, {})
