"""Hamiltonians as files of Wannier90: ``NAME_hr.dat``, ``NAME.win`` and ``NAME_centres.xyz``.

``NAME_hr.dat`` has a comment, the number of orbitals n and of cells R, the weights of the cells, here all 1, and for
each R the n^2 lines ``R1 R2 R3 i j Re Im`` of <i in cell 0| H |j in cell R>, eV, with i running faster than j. The
phase of H(k) is exp(2 pi i k.R). The orbitals have the order of the projections in ``NAME.win``, see
`Orbitals.wannier90_order`.

Programs that read these files take the orbitals for orthonormal ones. Atomic orbitals are not: either H is
transformed (`tracegrad.physics.exports.orthogonal`), or S stands in a second file of the same layout,
``NAME_overlap_hr.dat``, and whoever uses H solves H c = E S c.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

import numpy as np
from jaxtyping import Int64, Shaped

from tracegrad.data.crystals.bloch_matrix import BlochMatrix
from tracegrad.data.crystals.structure import Structure
from tracegrad.elements import SYMBOLS
from tracegrad.errors import DataError
from tracegrad.physics.exports.orbitals import Orbitals, orbitals_of
from tracegrad.physics.exports.orthogonal import OrthogonalHamiltonian

MOST_NUMBERS = 200_000_000  # lines of NAME_hr.dat; more take 15 GB
_WEIGHTS_A_LINE = 15


def write_wannier90(
    structure: Structure, folder: Path, name: str, orthogonal: OrthogonalHamiltonian | None = None
) -> list[str]:
    """Write H, geometry and orbitals of a structure into a folder that exists.

    Args:
        structure: with H and, if known, S.
        name: beginning of the names of the files.
        orthogonal: H of the structure in an orthogonal basis, which is written instead; None: H as it is, and S in
            ``NAME_overlap_hr.dat`` if the structure has it.

    Returns:
        The names of the files.

    Raises:
        DataError: a file would have more lines than `MOST_NUMBERS`.
    """
    orbitals = orbitals_of(structure)
    order = orbitals.wannier90_order
    files = [f"{name}_hr.dat", f"{name}.win", f"{name}_centres.xyz"]
    what = f"H (eV) of {structure.name} from TraceGrad"
    if orthogonal is not None:
        mesh = " x ".join(map(str, orthogonal.mesh))
        comment = f"{what}, Loewdin's orbitals, mesh {mesh}, bands within {orthogonal.error:.1e} eV"
        matrices = (matrix[np.ix_(order, order)] for matrix in orthogonal.matrices)
        _write_matrices(folder / files[0], comment, orthogonal.cells, len(order), matrices)
    else:
        comment = f"{what}; the orbitals are not orthogonal, H c = E S c"
        _write_blocks(folder / files[0], comment, structure, "hamiltonian", order)
        if structure.overlap is not None:
            files.append(f"{name}_overlap_hr.dat")
            comment = f"S, the overlaps of the orbitals, of {structure.name} from TraceGrad"
            _write_blocks(folder / files[-1], comment, structure, "overlap", order)
    (folder / files[1]).write_text(_win(structure, orbitals), encoding="utf-8")
    (folder / files[2]).write_text(_centres(structure, orbitals, order), encoding="utf-8")
    return files


def _write_blocks(
    path: Path, comment: str, structure: Structure, matrix: str, order: Int64[np.ndarray, " orbitals"]
) -> None:
    bloch = BlochMatrix(structure, matrix)
    matrices = (bloch.in_cell(n).toarray()[np.ix_(order, order)] for n in range(len(bloch.cells)))
    _write_matrices(path, comment, bloch.cells, len(order), matrices)


def _write_matrices(
    path: Path,
    comment: str,
    cells: Int64[np.ndarray, "cells 3"],
    size: int,
    matrices: Iterable[Shaped[np.ndarray, "n n"]],
) -> None:
    numbers = len(cells) * size**2
    if numbers > MOST_NUMBERS:
        raise DataError(
            f"{path.name}: {size} orbitals in {len(cells)} cells make {numbers:,} lines (at most {MOST_NUMBERS:,}); "
            "choose to=sisl, which keeps the matrices sparse"
        )
    with path.open("w", encoding="utf-8") as file:
        file.write(f" {comment}\n{size:12d}\n{len(cells):12d}\n")
        weights = ["    1"] * len(cells)
        for start in range(0, len(cells), _WEIGHTS_A_LINE):
            file.write("".join(weights[start : start + _WEIGHTS_A_LINE]) + "\n")
        for cell, matrix in zip(cells.tolist(), matrices, strict=True):
            _write_cell(file, "".join(f"{r:5d}" for r in cell), matrix)


def _write_cell(file: TextIO, cell: str, matrix: Shaped[np.ndarray, "n n"]) -> None:
    numbers = range(1, len(matrix) + 1)
    for j, column in zip(numbers, matrix.T.tolist(), strict=True):
        file.writelines(
            f"{cell}{i:5d}{j:5d}{value.real:20.12f}{value.imag:20.12f}\n"
            for i, value in zip(numbers, column, strict=True)
        )


def _win(structure: Structure, orbitals: Orbitals) -> str:
    """The input of Wannier90 that these files would have come from: cell, atoms and orbitals."""
    fractions = structure.positions @ np.linalg.inv(structure.lattice)
    symbols = [SYMBOLS[z] for z in structure.numbers.tolist()]
    lines = [f"num_wann = {len(orbitals.atom)}", f"num_bands = {len(orbitals.atom)}"]
    if structure.spinful:
        lines.append("spinors = .true.")
    if structure.fermi_level is not None:
        lines.append(f"fermi_energy = {structure.fermi_level:.10f}")
    lines += ["", "begin unit_cell_cart", "ang", *map(_numbers, structure.lattice), "end unit_cell_cart", ""]
    lines += ["begin atoms_frac"]
    lines += [f"{symbol:2}{_numbers(row)}" for symbol, row in zip(symbols, fractions, strict=True)]
    lines += ["end atoms_frac", "", "begin projections"]
    for row, number in zip(fractions, structure.numbers.tolist(), strict=True):
        shells = structure.shells[number]
        site = "f=" + ",".join(f"{value:.12f}" for value in row)
        lines += [f"{site}:l={degree}:r={shells[: n + 1].count(degree)}" for n, degree in enumerate(shells)]
    return "\n".join([*lines, "end projections", ""])


def _centres(structure: Structure, orbitals: Orbitals, order: Int64[np.ndarray, " orbitals"]) -> str:
    """The place of each orbital (X), which is that of its atom, and the atoms, angstrom."""
    lines = [
        f"{len(order) + len(structure.numbers)}",
        f" orbitals (X) and atoms of {structure.name} from TraceGrad",
    ]
    lines += [f"X {_numbers(row)}" for row in structure.positions[orbitals.atom[order]]]
    lines += [
        f"{SYMBOLS[z]:2}{_numbers(row)}"
        for z, row in zip(structure.numbers.tolist(), structure.positions, strict=True)
    ]
    return "\n".join([*lines, ""])


def _numbers(row: Shaped[np.ndarray, " 3"]) -> str:
    return "".join(f"{value:18.12f}" for value in row)
