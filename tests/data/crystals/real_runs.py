"""Real runs of DFT codes and their reference values.

The files belong to other projects and are not in the repository. They are looked for in ``TRACEGRAD_REAL_FILES``,
else in the folder ``shared/data`` beside the repository.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.linalg import eigh

from tracegrad.data.crystals.bloch_matrix import BlochMatrix
from tracegrad.data.crystals.structure import Structure
from tracegrad.hamiltonian.basis import CONVENTIONS

FILES = Path(os.environ.get("TRACEGRAD_REAL_FILES", Path(__file__).parents[4] / "shared" / "data")) / "dft"


def bands(structure: Structure, kpoints: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Eigenvalues, [k, band], eV."""
    h, s = (BlochMatrix(structure, matrix) for matrix in ("hamiltonian", "overlap"))
    return np.array([eigh(h.at(k).toarray(), s.at(k).toarray(), eigvals_only=True) for k in kpoints])


def standard_blocks(structure: Structure, matrix: str) -> dict[tuple[int, ...], np.ndarray]:
    """Blocks by their edge with shells as m = -l .. l; those with spin are [spin, row, spin, column]."""

    def order(number: int) -> list[int]:
        places: list[int] = []
        for degree in structure.shells[number]:
            places += [len(places) + p for p in CONVENTIONS["openmx"].get(degree, range(2 * degree + 1))]
        return places

    orders = {number: order(number) for number in structure.shells}
    blocks = {}
    for edge, block in zip(structure.edges.tolist(), structure.blocks(matrix), strict=True):
        rows, columns = (orders[int(structure.numbers[atom])] for atom in edge[3:])
        spins = block.shape[0] // len(rows)
        parts = block.reshape(spins, len(rows), spins, len(columns))[:, rows][..., columns]
        blocks[tuple(edge)] = parts if spins == 2 else parts[0, :, 0]
    return blocks


def references(path: Path) -> dict[tuple[int, ...], Mapping[str, np.ndarray]]:
    """For each edge: the overlap "S" and the components "0", "1", ... of H, of a file reference_blocks.npz."""
    with np.load(path) as file:
        return {
            tuple(edge): {
                key.split("_")[-1] if key[0] == "H" else "S": file[key]
                for key in file.files
                if key[1:4] == f"{n:03d}"
            }
            for n, edge in enumerate(file["pairs"].tolist())
        }
