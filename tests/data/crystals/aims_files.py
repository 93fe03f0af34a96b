"""The files of an FHI-aims calculation of a structure, in the layouts of FHI-aims."""

from pathlib import Path

import numpy as np

from tests.data.crystals.orbital_files import elements, orbitals
from tracegrad.data.crystals.structure import Structure
from tracegrad.elements import SYMBOLS
from tracegrad.units import EV_PER_HARTREE_2018 as HARTREE

NO_CELL = (999999999, 999999999, 999999999)


def shifts_into_central_cell(structure: Structure, rounding: float) -> np.ndarray:
    """Integer vectors that move the atoms into fractions in (-1/2, 1/2]; values near 1/2 depend on the rounding."""
    return -np.ceil(structure.positions @ np.linalg.inv(structure.lattice) - 0.5 - rounding).astype(int)


def write_calculation(
    structure: Structure, folder: Path, *, down: Structure | None = None, rounding: float = 1e-9
) -> Path:
    """The files of a crystal; with a second structure, whose H is that of spin down, of a collinear calculation."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "control.in").write_text("xc pbe\nrelax_geometry none\noutput_rs_matrices plain\n")
    (folder / "geometry.in").write_text(geometry(structure))
    (folder / "basis-indices.out").write_text(basis_indices(structure))
    shifts = shifts_into_central_cell(structure, rounding)
    atoms = [row[0] for row in orbitals(structure, "aims")]

    def triangle(one: Structure, matrix: str) -> dict:
        """Elements <row, R| |column, 0> by (R, row, column), column <= row, of the atoms in the central cell."""
        stored = {}
        for cell, row, column, value in elements(one, matrix, "aims"):
            wrapped = np.array(cell) - shifts[atoms[column]] + shifts[atoms[row]]
            if column <= row:
                stored[(*(-wrapped).tolist(), row, column)] = value
        return stored

    matrices = {"rs_overlap.out": triangle(structure, "overlap")}
    if down is None:
        matrices["rs_hamiltonian.out"] = triangle(structure, "hamiltonian")
    else:
        matrices["rs_hamiltonian_up.out"] = triangle(structure, "hamiltonian")
        matrices["rs_hamiltonian_dn.out"] = triangle(down, "hamiltonian")
    keys = sorted(matrices["rs_overlap.out"], key=lambda key: ((key[:3] != (0, 0, 0)), key))
    for name, matrix in matrices.items():
        unit = 1.0 if name == "rs_overlap.out" else HARTREE
        values = [*(matrix[key] / unit for key in keys), 0.0]
        (folder / name).write_text("".join(f"{value:24.16E}\n" for value in values))
    (folder / "rs_indices.out").write_text(indices(keys, len(atoms)))
    return folder


def indices(keys: list[tuple[int, ...]], size: int) -> str:
    cells = list(dict.fromkeys(key[:3] for key in keys))
    first = {(*cell, row): (0, -1) for cell in [*cells, NO_CELL] for row in range(size)}
    for place, key in enumerate(keys, 1):
        start = first[key[:4]][0] or place
        first[key[:4]] = (start, place)
    lines = [
        f"n_hamiltonian_matrix_size: {len(keys) + 1:12d}",
        f"n_cells_in_hamiltonian: {len(cells) + 1:12d}",
        f"n_basis: {size:12d}",
        "cell_index",
        *(" ".join(f"{n:10d}" for n in cell) for cell in [*cells, NO_CELL]),
    ]
    for which in (0, 1):
        lines.append(f"index_hamiltonian({which + 1},:,:)")
        for cell in [*cells, NO_CELL]:
            lines.append(" ".join(f"{first[*cell, row][which]:10d}" for row in range(size)))
    lines.append("column_index_hamiltonian")
    lines += [f"{key[4] + 1:10d}" for key in keys] + ["         0"]
    return "\n".join(lines) + "\n"


def write_molecule(structure: Structure, folder: Path) -> Path:
    """The files of a molecule: upper triangles, and exponents of three digits."""
    folder.mkdir(parents=True, exist_ok=True)
    text = geometry(structure).splitlines()
    (folder / "geometry.in").write_text("\n".join(line for line in text if "vector" not in line))
    (folder / "basis-indices.out").write_text(basis_indices(structure))
    for matrix, name, unit in (
        ("hamiltonian", "hamiltonian.out", HARTREE),
        ("overlap", "overlap-matrix.out", 1),
    ):
        found = {(a, b): value for _, a, b, value in elements(structure, matrix, "aims")}
        rows = [
            f"{a + 1:6d}{b + 1:6d} {found[a, b] / unit:.10E}".replace("E-", "E-0").replace("E+", "E+0")
            for b in range(len(orbitals(structure, "aims")))
            for a in range(b + 1)
        ]
        (folder / name).write_text("\n".join(rows) + "\n")
    return folder


def geometry(structure: Structure) -> str:
    lines = ["# a comment"]
    lines += ["lattice_vector " + " ".join(f"{x:.16f}" for x in row) for row in structure.lattice]
    for number, position in zip(structure.numbers.tolist(), structure.positions, strict=True):
        lines.append("atom " + " ".join(f"{x:.16f}" for x in position) + f" {SYMBOLS[number]}  # here")
    return "\n".join([*lines, "initial_moment 1.0"]) + "\n"


def basis_indices(structure: Structure) -> str:
    lines = ["", "  fn.   type   at.   n   l   m"]
    for n, (atom, _, _, degree, zeta, m) in enumerate(orbitals(structure, "aims"), 1):
        lines.append(f"{n:5d} atomic {atom + 1:5d} {degree + zeta:3d} {degree:3d} {m:3d}")
    return "\n".join(lines) + "\n"
