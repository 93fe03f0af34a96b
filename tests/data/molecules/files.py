"""Small files in the layouts of SchNOrb's MD17 (an ASE database) and of nablaDFT (SQLite)."""

import base64
import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.db import connect

from tests.data.databases import alter
from tracegrad.hamiltonian.basis import DEF2_SVP
from tracegrad.physics.molecules.dft import build_molecule

# PySCF's position of each component of the file: p as z, x, y; d as z2, xz, yz, x2-y2, xy.
COMPONENTS = {0: (0,), 1: (2, 0, 1), 2: (2, 3, 1, 4, 0)}
# 1s levels, hartree.
PBE = {6: -9.9, 7: -13.96, 8: -18.7, 9: -24.2}
HARTREE_FOCK = {6: -11.2, 7: -15.5, 8: -20.5, 9: -26.3}
OMEGA_B97X_D = {6: -10.27, 7: -14.4, 8: -19.2, 9: -24.8, 16: -89.0, 17: -101.6, 35: -483.0}
NABLADFT = (
    "CREATE TABLE data (id INTEGER NOT NULL PRIMARY KEY, Z BLOB, R BLOB, E FLOAT, F BLOB, H BLOB, S BLOB, C BLOB)",
    "CREATE TABLE dataset_ids (id INTEGER NOT NULL PRIMARY KEY, MOSES_ID INT, CONFORMER_ID INT)",
    "CREATE TABLE basisset (Z INTEGER NOT NULL PRIMARY KEY, orbitals BLOB)",
)

# Z, positions (angstrom), and H, S and core Hamiltonian in PySCF's order.
Sample = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def sample(numbers: Sequence[int], seed: int, levels: dict[int, float] = PBE) -> Sample:
    """A chain of bonded atoms, a random symmetric H with these 1s levels, and the integrals of PySCF."""
    z, rng = np.array(numbers), np.random.default_rng(seed)
    positions = 0.05 * rng.standard_normal((len(z), 3))
    positions[1:, 0] += np.cumsum(covalent_radii[z[1:]] + covalent_radii[z[:-1]])
    molecule = build_molecule(z, positions)
    overlap = molecule.intor("int1e_ovlp")
    core = molecule.intor("int1e_kin") + molecule.intor("int1e_nuc")
    hamiltonian = rng.standard_normal(overlap.shape)
    hamiltonian = hamiltonian + hamiltonian.T
    for atom, (start, _) in enumerate(molecule.aoslice_by_atom()[:, 2:]):
        if z[atom] > 1:
            hamiltonian[start, start] = levels[z[atom]]
    return z, positions, hamiltonian, overlap, core


def in_file_order(matrix: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """A matrix in PySCF's order with the rows and columns of a file."""
    order: list[int] = []
    for z in numbers.tolist():
        for degree in DEF2_SVP[z]:
            first = len(order)
            order += [first + component for component in COMPONENTS[degree]]
    return matrix[order][:, order]


def write_md17(path: Path, samples: Sequence[Sample], form: str = "bytes", dtype: str = "float64") -> Path:
    """An ASE database; ``form`` of the arrays: bytes or json (ASE since and before 2019), or base64 (SchNetPack)."""
    texts = []
    with connect(path) as database:
        for numbers, positions, hamiltonian, overlap, _ in samples:
            matrices = (in_file_order(matrix, numbers).astype(dtype) for matrix in (hamiltonian, overlap))
            data = dict(zip(("hamiltonian", "overlap"), matrices, strict=True))
            data |= {"energy": np.array([-1.0]), "forces": np.zeros((len(numbers), 3))}
            database.write(Atoms(numbers, positions), data=data)
            texts.append(encoded(data, form))
    for row, text in enumerate(texts, 1):
        if form != "bytes":
            alter(path, "UPDATE systems SET data = ? WHERE id = ?", text, row)
    return path


def encoded(data: dict[str, np.ndarray], form: str) -> str:
    """The text of the column ``data`` in an older form."""
    values: dict[str, object] = {}
    for name, array in data.items():
        if form == "json":
            values[name] = {"__ndarray__": [array.shape, str(array.dtype), array.ravel().tolist()]}
        else:
            values |= {name: base64.b64encode(array.tobytes()).decode(), f"_shape_{name}": array.shape}
            values[f"_dtype_{name}"] = str(array.dtype)
    return json.dumps(values)


def write_nabladft(path: Path, samples: Sequence[Sample]) -> Path:
    """A Hamiltonian database of nablaDFT; ids begin at 0."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for table in NABLADFT:
            connection.execute(table)
        for i, (numbers, positions, *matrices) in enumerate(samples):
            r = (positions / 0.529177210903).astype("<f4").tobytes()
            blobs = [in_file_order(matrix, numbers).astype("<f4").tobytes() for matrix in matrices]
            forces = np.zeros((len(numbers), 3), "<f4").tobytes()
            row = (i, numbers.astype("<i4").tobytes(), r, -1.0, forces, *blobs)
            connection.execute("INSERT INTO data VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
            connection.execute("INSERT INTO dataset_ids VALUES (?, ?, ?)", (i, 1000 + i, 0))
        for z in sorted({z for numbers, *_ in samples for z in numbers.tolist()}):
            shells = np.array(DEF2_SVP[z], "<i4").tobytes()
            connection.execute("INSERT INTO basisset VALUES (?, ?)", (z, shells))
    return path
