"""The files of a run of ABACUS, written literally from a structure."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tracegrad.data.crystals.structure import Structure
from tracegrad.elements import SYMBOLS
from tracegrad.units import ANGSTROM_PER_BOHR

RYDBERG = 13.605698066
OPENMX = {0: ["s"], 1: ["x", "y", "z"], 2: ["z2", "x2-y2", "xy", "xz", "yz"]}
# Functions of a shell in the order of ABACUS, with their signs.
ABACUS = {
    0: [("s", 1)],
    1: [("z", 1), ("x", -1), ("y", -1)],
    2: [("z2", 1), ("xz", -1), ("yz", -1), ("x2-y2", 1), ("xy", 1)],
}
BOX = """
 #----------------------------------------------------------------------#
 #                               CSR Format                             #
 # The outer loop corresponds to the number of Bravais lattice vectors. #
 # The first line contains the index of the Bravais lattice vector      #
 # (Rx, Ry, Rz), followed by the number of non-zero elements.           #
 # The subsequent lines consist of three blocks of data, which are      #
 # values, column indices, row pointers.                                #
 #----------------------------------------------------------------------#

"""


def dense_cells(structure: Structure, matrix: str) -> dict[tuple[int, ...], np.ndarray]:
    """M(R) of all orbitals of a cell in the order of ABACUS, by R; rows are (orbital, spin) for nspin 4."""
    places, signs, starts = [], [], [0]
    for number in structure.numbers.tolist():
        first, own = 0, []
        for degree in structure.shells[number]:
            own += [(first + OPENMX[degree].index(name), sign) for name, sign in ABACUS[degree]]
            first += 2 * degree + 1
        places.append([place for place, _ in own])
        signs.append(np.array([sign for _, sign in own]))
        starts.append(starts[-1] + first)
    spins = 2 if structure.spinful else 1
    cells = {}
    for (*cell, i, j), block in zip(structure.edges.tolist(), structure.blocks(matrix), strict=True):
        m = cells.setdefault(
            tuple(cell), np.zeros((spins * starts[-1],) * 2, complex if spins == 2 else float)
        )
        rows, columns = len(places[i]), len(places[j])
        for s, t in np.ndindex(spins, spins):
            if matrix == "overlap":
                part = block if s == t else 0 * block
            else:
                part = block[s * rows : (s + 1) * rows, t * columns : (t + 1) * columns]
            part = part[places[i]][:, places[j]] * np.outer(signs[i], signs[j])
            m[
                spins * starts[i] + s : spins * starts[i + 1] : spins,
                spins * starts[j] + t : spins * starts[j + 1] : spins,
            ] = part
    return cells


def older(cells: dict[tuple[int, ...], np.ndarray], letter: str, step: int | None = 0) -> str:
    size = len(next(iter(cells.values())))
    lines = [] if step is None else [f"STEP: {step}"]
    lines += [f"Matrix Dimension of {letter}(R): {size}", f"Matrix number of {letter}(R): {len(cells)}"]
    for cell, m in sorted(cells.items()):
        values, columns, pointers = sparse(m)
        lines.append(" ".join(map(str, (*cell, len(values)))))
        if values:
            lines += [" " + " ".join(x) for x in (values, columns, pointers)]
    return "\n".join(lines) + "\n"


def newer(
    cells: dict[tuple[int, ...], np.ndarray],
    letter: str,
    structure: Structure,
    *,
    step: int = 1,
    spins: int = 1,
    spin: int = 1,
    level: str = "",
    labels: str | None = None,
) -> str:
    numbers, size = structure.numbers, len(next(iter(cells.values())))
    elements = list(dict.fromkeys(numbers.tolist()))
    fractions = structure.positions @ np.linalg.inv(structure.lattice)
    lines = [
        f" --- Ionic Step {step} ---",
        f" # print {letter} matrix in real space {letter}(R)",
        f" {spins} # number of spin directions",
        f" {spin} # spin index{level}",
        f" {size} # number of localized basis",
        f" {len(cells)} # number of Bravais lattice vector R",
        "",
        " user_defined_lattice",
        " 2.5",
        *(" " + " ".join(f"{x:.12f}" for x in row / 2.5) for row in structure.lattice),
        " " + (labels or " ".join(SYMBOLS[z] for z in elements)),
        " " + " ".join(str((numbers == z).sum()) for z in elements),
        " Direct",
        *(" " + " ".join(f"{x:.15f}" for x in row) for row in fractions),
    ]
    text = "\n".join(lines) + "\n" + BOX
    for cell, m in sorted(cells.items()):
        values, columns, pointers = sparse(m)
        text += " " + " ".join(map(str, (*cell, len(values)))) + "\n"
        for title, words, width in (
            ("CSR values", values, 6),
            ("CSR column indices", columns, 16),
            ("CSR row pointers", pointers, 16),
        ):
            text += f" # {title}\n" + (wrapped(words, width) if words else "\n")
        text += "\n" if values else ""
    return text


def sparse(m: np.ndarray) -> tuple[list[str], list[str], list[str]]:
    values, columns, pointers = [], [], ["0"]
    for row in m:
        for column in np.flatnonzero(row):
            x = row[column]
            values.append(f"({x.real:.15e},{x.imag:.15e})" if np.iscomplexobj(m) else f"{x:.15e}")
            columns.append(str(column))
        pointers.append(str(len(values)))
    return values, columns, pointers


def wrapped(words: list[str], width: int) -> str:
    return "".join(" " + " ".join(words[n : n + width]) + "\n" for n in range(0, len(words), width))


def log(structures: Sequence[Structure], level: float | None = -4.25) -> str:
    """The log of a run with these structures in its ionic steps."""
    first = structures[0]
    text = "\n ABACUS v3.10.0\n\n              lattice constant (Bohr) = 5.0\n\n"
    for number in dict.fromkeys(first.numbers.tolist()):
        degrees = first.shells[number]
        text += f" READING ATOM TYPE 1\n        atom label = {SYMBOLS[number]}\n"
        text += "".join(f"        L={d}, number of zeta = {degrees.count(d)}\n" for d in sorted(set(degrees)))
        text += f"     number of atom for this type = {(first.numbers == number).sum()}\n\n"
    for structure in structures:
        text += "CARTESIAN COORDINATES ( UNIT = 5.000000000000 Bohr ).\n    atom      x     y    z    mag\n"
        for n, row in enumerate(structure.positions / ANGSTROM_PER_BOHR / 5.0, start=1):
            text += f"tauc_{SYMBOLS[structure.numbers[n - 1]]}{n} " + " ".join(f"{x:.12f}" for x in row)
            text += " 0.0000 0.0 0.0 0.0\n"
        text += "\n Lattice vectors: (Cartesian coordinate: in unit of a_0)\n"
        for row in structure.lattice / ANGSTROM_PER_BOHR / 5.0:
            text += " ".join(f"{x:+.12f}" for x in row) + "\n"
        text += " Reciprocal vectors: (Cartesian coordinate: in unit of 2 pi/a_0)\n  +1 +0 +0\n"
        text += "" if level is None else f" EFERMI = {level} eV\n"
    return text


STRU = """ATOMIC_SPECIES
Mo 95.94 Mo.upf
S 32.06 S.upf upf201 // type

NUMERICAL_ORBITAL
orbitals/Mo_gga_8au_100Ry_2s1p1d.orb
S_gga_8au_100Ry_1s1p.orb  # of sulphur

LATTICE_CONSTANT
1.889726 // bohr

LATTICE_VECTORS
3 0 0
"""


def write_run(
    folder: Path,
    structure: Structure,
    *others: Structure,
    layout: str = "older",
    texts: Sequence[str] = ("log", "STRU"),
) -> Path:
    """A calculation, with a second structure as spin 2; returns the folder of its output."""
    output = folder / "OUT.ABACUS"
    output.mkdir(parents=True)
    channels = [structure, *others]
    for n, channel in enumerate(channels):
        cells = {cell: m / RYDBERG for cell, m in dense_cells(channel, "hamiltonian").items()}
        if layout == "older":
            (output / f"data-HR-sparse_SPIN{n}.csr").write_text(older(cells, "H"))
        else:
            text = newer(cells, "H", channel, spins=len(channels), spin=n + 1)
            (output / f"hrs{n + 1}_nao.csr").write_text(text)
    cells = dense_cells(structure, "overlap")
    if layout == "older":
        (output / "data-SR-sparse_SPIN0.csr").write_text(older(cells, "S"))
    else:
        (output / "sr_nao.csr").write_text(newer(cells, "S", structure))
    if "log" in texts:
        (output / "running_scf.log").write_text(log([structure]))
    if "STRU" in texts:
        (folder / "STRU").write_text(STRU)
    return output


def write_eigenvalues(
    output: Path, structure: Structure, k: np.ndarray, energies: np.ndarray, layout: str
) -> None:
    """``istate.info`` or ``eig_occ.txt`` of energies [spin, k, band]."""
    text = ""
    if layout == "older":
        title = (
            "Energy(ev) Occupation"
            if len(energies) == 1
            else "Spin up Energy(ev) Occupation Spin down Energy(ev)"
        )
        for n, point in enumerate(k):
            text += f"BAND        {title}      Kpoint = {n + 1}       ({point[0]} {point[1]} {point[2]})\n"
            for band in range(energies.shape[2]):
                levels = (f"{e[n, band]:25.14f}{0.5:25}" for e in energies)
                text += f"{band + 1:6}" + "".join(levels) + "\n"
            text += "\n\n"
        (output / "istate.info").write_text(text)
        return
    text += (
        f"1     # ionic step\n Electronic state energy (eV) and occupations\n Spin number {len(energies)}\n"
    )
    constant = 2.5  # angstrom, the lattice constant of the newer layout here
    cartesian = k @ np.linalg.inv(structure.lattice / constant).T
    for s, of_spin in enumerate(energies):
        for n, levels in enumerate(of_spin):
            point = " ".join(f"{x:.12f}" for x in cartesian[n])
            text += f" spin={s + 1} k-point={n + 1}/{len(k)} Cartesian={point} (299 plane wave)\n"
            text += "".join(f" {band + 1} {e:.14f} 0.5\n" for band, e in enumerate(levels)) + "\n"
    (output / "eig_occ.txt").write_text(text)
