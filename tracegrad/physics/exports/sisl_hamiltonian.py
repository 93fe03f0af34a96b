"""Hamiltonians of crystals as objects of sisl (https://zerothi.github.io/sisl), and as files of SIESTA.

sisl's objects hold H - E_F S, so that the Fermi level is at 0, in eV and angstrom. Here the orbitals have SIESTA's
order and signs (`Orbitals.siesta_order`), and with spin-orbit coupling all of them come first with spin up. TSHS is
the file of H and S that TranSIESTA, TBtrans and sisl read; what it lacks, elements and orbitals, stands in the .fdf
and .ORB_INDX files beside it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64
from scipy.sparse import csr_array, hstack

from tracegrad.data.crystals.bloch_matrix import BlochMatrix
from tracegrad.data.crystals.structure import Structure
from tracegrad.elements import SYMBOLS
from tracegrad.errors import DataError
from tracegrad.extras import require
from tracegrad.physics.exports.orbitals import Orbitals, orbitals_of

_NO_RADIUS = 0.0  # of an orbital in .ORB_INDX: structures do not tell the radii


def to_sisl(structure: Structure) -> Any:
    """The Hamiltonian of a structure as a `sisl.Hamiltonian` with overlaps.

    It holds H - E_F S, or H where the structure has no Fermi level.

    Args:
        structure: with H and S.

    Raises:
        DataError: there is no overlap.
        MissingExtraError: sisl is not installed.
    """
    require("sisl")
    import sisl

    if structure.overlap is None:
        raise DataError(
            f"{structure.name}: has no overlap, without which sisl would take its orbitals for orthogonal ones; give "
            "basis_files=FOLDER with the basis files of the DFT calculation, or take a folder with overlaps.h5"
        )
    orbitals = orbitals_of(structure)
    hamiltonian, overlap = (BlochMatrix(structure, matrix) for matrix in ("hamiltonian", "overlap"))
    level = structure.fermi_level or 0.0
    order = orbitals.siesta_order
    spatial = order[: len(order) // structure.basis.spins]
    geometry = sisl_geometry(structure, orbitals)
    signs = orbitals.siesta_signs
    parts: dict[str, list[csr_array]] = {}
    for h, s in zip(
        *(in_cells(matrix, geometry, order, signs) for matrix in (hamiltonian, overlap)), strict=True
    ):
        for name, values in _components(h - level * s, s, len(spatial), structure.spinful).items():
            parts.setdefault(name, []).append(values)
    *components, overlaps = (hstack(matrices, format="csr") for matrices in parts.values())
    spin = sisl.Spin("spin-orbit" if structure.spinful else "unpolarized")
    return sisl.Hamiltonian.fromsp(geometry, components, S=overlaps, spin=spin)


def write_tshs(structure: Structure, folder: Path, name: str) -> list[str]:
    """Write ``NAME.TSHS``, ``NAME.fdf`` and ``NAME.ORB_INDX`` into a folder that exists, and return their names.

    ``sisl.get_sile("NAME.fdf").read_hamiltonian()`` reads all of them. Arguments and errors are those of `to_sisl`.
    """
    hamiltonian = to_sisl(structure)
    from sisl.io.siesta import tshsSileSiesta

    files = [f"{name}.TSHS", f"{name}.fdf", f"{name}.ORB_INDX"]
    tshsSileSiesta(folder / files[0], "w").write_hamiltonian(hamiltonian)
    level = structure.fermi_level
    known = "unknown, 0 is the zero of H" if level is None else f"{level:.10f} eV"
    title = f"H - E_F S of {structure.name} from TraceGrad is in {files[0]}; E_F = {known}"
    settings = [f"SystemLabel {name}", *(["Spin spin-orbit"] if structure.spinful else [])]
    (folder / files[1]).write_text(fdf_text(structure, title, settings), encoding="utf-8")
    (folder / files[2]).write_text(_orbital_index(structure, hamiltonian.geometry), encoding="utf-8")
    return files


def sisl_geometry(structure: Structure, orbitals: Orbitals) -> Any:
    """The atoms of a structure with their orbitals in SIESTA's order as a `sisl.Geometry`, and the cells of its R."""
    import sisl

    atoms = {}
    for number in structure.shells:
        atom = int(np.flatnonzero(structure.numbers == number)[0])
        rows = [row for row in orbitals.siesta_order.tolist() if orbitals.atom[row] == atom]
        shells = [
            sisl.AtomicOrbital(
                # Bases do not tell n; the lowest possible one stands for all shells of a degree.
                n=int(orbitals.degree[row]) + 1,
                l=int(orbitals.degree[row]),
                m=int(orbitals.m[row]),
                zeta=int(orbitals.zeta[row]),
            )
            for row in rows[: len(rows) // structure.basis.spins]
        ]
        atoms[number] = sisl.Atom(number, shells)
    geometry = sisl.Geometry(
        structure.positions, [atoms[z] for z in structure.numbers.tolist()], lattice=structure.lattice
    )
    geometry.set_nsc(2 * np.abs(structure.edges[:, :3]).max(0) + 1)
    return geometry


def in_cells(
    matrix: BlochMatrix,
    geometry: Any,
    order: Int64[np.ndarray, " orbitals"],
    signs: Int64[np.ndarray, " orbitals"],
) -> list[csr_array]:
    """The matrices of all cells R of a geometry, in sisl's order of R and SIESTA's order of the orbitals."""
    place = {tuple(cell): n for n, cell in enumerate(matrix.cells.tolist())}
    found = [place.get(tuple(cell)) for cell in geometry.lattice.sc_off.tolist()]
    empty = csr_array((matrix.size, matrix.size))
    return [empty if n is None else _reordered(matrix.in_cell(n), order, signs) for n in found]


def _reordered(
    matrix: csr_array, order: Int64[np.ndarray, " orbitals"], signs: Int64[np.ndarray, " orbitals"]
) -> csr_array:
    """A matrix in SIESTA's order with SIESTA's signs."""
    scale = csr_array((signs[order], (np.arange(len(order)), order)), shape=matrix.shape)
    return scale @ matrix @ scale.T


def _components(h: csr_array, s: csr_array, size: int, spinful: bool) -> dict[str, csr_array]:
    """The real matrices of sisl's spin components, and the overlap last.

    uu = c0 + i c4, dd = c1 + i c5, ud = c2 + i c3, du = c6 + i c7.
    """
    if not spinful:
        return {"h": h, "s": s}
    up, down = slice(0, size), slice(size, 2 * size)
    uu, dd, ud, du = h[up, up], h[down, down], h[up, down], h[down, up]
    parts = [uu.real, dd.real, ud.real, ud.imag, uu.imag, dd.imag, du.real, du.imag]
    return {f"h{n}": part for n, part in enumerate(parts)} | {"s": s[up, up].real}


def fdf_text(structure: Structure, title: str, settings: Sequence[str]) -> str:
    """Cell, atoms and elements in SIESTA's input language, below a comment and other settings."""
    species = list(structure.shells)
    atoms = zip(structure.positions.tolist(), structure.numbers.tolist(), strict=True)
    return "\n".join(
        [
            f"# {title}",
            *settings,
            f"NumberOfAtoms {len(structure.numbers)}",
            f"NumberOfSpecies {len(species)}",
            "LatticeConstant 1.0 Ang",
            "%block LatticeVectors",
            *map(_numbers, structure.lattice.tolist()),
            "%endblock LatticeVectors",
            "%block ChemicalSpeciesLabel",
            *(f"{n} {z} {SYMBOLS[z]}" for n, z in enumerate(species, start=1)),
            "%endblock ChemicalSpeciesLabel",
            "AtomicCoordinatesFormat Ang",
            "%block AtomicCoordinatesAndAtomicSpecies",
            *(f"{_numbers(place)} {species.index(z) + 1}" for place, z in atoms),
            "%endblock AtomicCoordinatesAndAtomicSpecies",
            "",
        ]
    )


def _orbital_index(structure: Structure, geometry: Any) -> str:
    """SIESTA's list of the orbitals in the cell: number, atom, species, label, n l m zeta, and others."""
    species = list(structure.shells)
    total = geometry.no
    lines = [
        f"{total:9d}{total:9d} = orbitals in unit cell and supercell",
        "",
        "   io   ia is   spec iao  n  l  m  z  p",
    ]
    number = 0
    for atom, z in enumerate(structure.numbers.tolist()):
        for n, orbital in enumerate(geometry.atoms[atom].orbitals, start=1):
            number += 1
            shell = f"{orbital.n:3d}{orbital.l:3d}{orbital.m:3d}{orbital.zeta:3d}"
            place = f"{number:5d}{atom + 1:5d}{species.index(z) + 1:3d} {SYMBOLS[z]:>5}{n:5d}"
            lines.append(f"{place}{shell} F {orbital.name():>12} {_NO_RADIUS:7.3f}    0  0  0{number:9d}")
    return "\n".join([*lines, ""])


def _numbers(row: list[float]) -> str:
    return "".join(f"{value:20.12f}" for value in row)
