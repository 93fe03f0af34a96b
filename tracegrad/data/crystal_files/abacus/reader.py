"""Output of ABACUS: H(R) and S(R) in the folder ``OUT.*`` of a calculation with ``out_mat_hs2 1``.

ABACUS writes rydberg. The orbitals of an atom are ordered by degree, zeta and m = 0, 1, -1, 2, -2, ..., with the sign
(-1)^m relative to the standard real harmonics. With nspin 2 there is one H for each spin and one S; with nspin 4 the
matrices have two rows for each orbital, spin up and spin down, and S is the same for both. The atoms are ordered by
species, and moved into the cell. The matrices are those of <i in cell 0| H |j in cell R> and H(k) is summed with
exp(2 pi i k.R), whatever the documentation of ABACUS says.

H reaches farther than S, by the projectors of the pseudopotentials: pairs that only H has get S = 0.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from tracegrad.data.crystal_files.abacus.blocks import abacus_blocks, abacus_orbitals
from tracegrad.data.crystal_files.abacus.csr import (
    NEWER,
    AbacusCell,
    CsrHeader,
    SparseCells,
    count_ionic_steps,
    read_csr,
    read_csr_header,
    spin_directions,
)
from tracegrad.data.crystal_files.abacus.run import RunLog, find_log, read_eigenvalues, stru_path, stru_shells
from tracegrad.data.crystals.orbital_blocks import CellOrbitals
from tracegrad.data.crystals.reader import CrystalReader, StructureHeader, check_channel, checked_spin
from tracegrad.data.crystals.reference_bands import ReferenceBands
from tracegrad.data.crystals.structure import Structure
from tracegrad.elements import NUMBERS, SYMBOLS
from tracegrad.errors import DataError
from tracegrad.hamiltonian.basis import OrbitalBasis, Shells, shells_name

_SAME_POSITION = 1e-3  # angstrom, between the atoms in the files of H and S
# Names of the files of spin 1, spin 2 and S in each layout; the newer ones may have the ionic step in them (g3).
_PATTERNS = {
    "H1": re.compile(r"(?:data-HR-sparse_SPIN0|hrs1(?:g(\d+))?_nao)\.csr(?:\.gz)?"),
    "H2": re.compile(r"(?:data-HR-sparse_SPIN1|hrs2(?:g(\d+))?_nao)\.csr(?:\.gz)?"),
    "S": re.compile(r"(?:data-SR-sparse_SPIN0|SR|sr(?:s1)?(?:g(\d+))?_nao)\.csr(?:\.gz)?"),
}


class ABACUSReader(CrystalReader):
    """Folders ``OUT.*`` of ABACUS, or the folders of calculations that hold one of them.

    Args:
        path: the database.
        shells: shells of each element, as of `OrbitalBasis.openmx`, where neither the log nor the names of the
            orbital files in STRU tell them.
        spin: "up" or "down" for calculations with nspin 2.
    """

    label = "folders OUT.* of ABACUS"
    collinear = True

    def __init__(self, path: str | Path, shells: Shells | None = None, spin: str | None = None):
        super().__init__(path)
        self.shells, self.spin = shells, checked_spin(spin)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return _output_folder(path) is not None

    def read(self, name: str, matrices: Sequence[str]) -> Structure:
        run = self._run(name)
        read = {"hamiltonian": run.hamiltonian, "overlap": run.overlap}
        sparse = {matrix: read_csr(read[matrix]()) for matrix in matrices}
        return _structure(name, run, sparse)

    def header(self, name: str) -> StructureHeader:
        run = self._run(name)
        header = read_csr_header(run.hamiltonian())
        cell = run.cell(header)
        orbitals, spinful = run.orbitals(header, cell)
        return StructureHeader(orbitals.numbers, orbitals.shells, spinful, run.fermi_level(header))

    def files(self, name: str, matrix: str = "hamiltonian") -> list[Path]:
        run = self._run(name)
        texts = [run.log.path] if run.log is not None else []
        stru = stru_path(run.folder)
        return [
            *texts,
            *([stru] if stru else []),
            run.hamiltonian() if matrix == "hamiltonian" else run.overlap(),
        ]

    def reference_bands(self, name: str) -> ReferenceBands | None:
        run = self._run(name)
        return read_eigenvalues(run.folder, run.cell(read_csr_header(run.hamiltonian())))

    def notes(self, name: str) -> list[str]:
        run = self._run(name)
        steps = count_ionic_steps(run.hamiltonian())
        return [f"the last of {steps} ionic steps"] if steps > 1 else []

    def _run(self, name: str) -> "_Run":
        folder = _output_folder(self.places[name])
        if folder is None:
            raise DataError(f"{self.places[name]}: its matrices are gone; complete the output of ABACUS")
        return _Run(folder, self.spin, self.shells)


@dataclass(frozen=True)
class _Run:
    """The files of a calculation and what they say together."""

    folder: Path
    spin: str | None
    given: Shells | None

    def hamiltonian(self) -> Path:
        """The file of H in the chosen spin."""
        check_channel(self.spin, self._polarised, str(self.folder))
        return self._file("H2" if self.spin == "down" else "H1")

    def overlap(self) -> Path:
        return self._file("S")

    @cached_property
    def log(self) -> RunLog | None:
        return find_log(self.folder)

    @cached_property
    def _polarised(self) -> bool:
        return bool(_found(self.folder, "H2")) or (spin_directions(self._file("H1")) or 1) > 1

    def _file(self, kind: str) -> Path:
        found = _found(self.folder, kind)
        what = {"H1": "H of spin 1", "H2": "H of spin 2", "S": "S"}[kind]
        if not found:
            raise DataError(
                f"{self.folder}: has no file of {what} (such as {'sr' if kind == 'S' else 'hrs' + kind[1]}_nao.csr); "
                "run ABACUS with out_mat_hs2 1, or take all files of the run"
            )
        latest = [path for path, step in found if step == max(step for _, step in found)]
        if len(latest) > 1:
            raise DataError(
                f"{self.folder}: holds {' and '.join(sorted(path.name for path in latest))}, which are both {what}; "
                "keep the files of one run"
            )
        return latest[0]

    def cell(self, header: CsrHeader) -> AbacusCell:
        """Atoms and lattice, from the file of the newer layout or from the log."""
        if header.cell is not None:
            return header.cell
        if self.log is None:
            raise DataError(
                f"{self.folder}: has no running_*.log, from which the atoms are taken (those of STRU may lie in "
                "other cells); take all files of the run"
            )
        return self.log.cell(header.step or 0)

    def fermi_level(self, header: CsrHeader) -> float | None:
        if header.fermi_level is not None or self.log is None:
            return header.fermi_level
        return self.log.fermi_level

    def orbitals(self, header: CsrHeader, cell: AbacusCell) -> tuple[CellOrbitals, bool]:
        """The orbitals of the cell, and whether there are two rows for each of them.

        Raises:
            DataError: the shells are not known or do not fit.
        """
        numbers = np.array([_element(label, self.folder) for label in cell.labels], dtype=np.int64)
        source, of_labels = self._shells(cell.labels, numbers)
        shells: dict[int, tuple[int, ...]] = {}
        first: dict[int, str] = {}
        for label, number in zip(cell.labels, numbers.tolist(), strict=True):
            if shells.setdefault(number, of_labels[label]) != of_labels[label]:
                raise DataError(
                    f"{source}: the species {first[number]} and {label} of {SYMBOLS[number]} have the shells "
                    f"{shells_name(shells[number])} and {shells_name(of_labels[label])}; one basis for each element "
                    "is supported, so compute both with the same"
                )
            first.setdefault(number, label)
        orbitals = abacus_orbitals(numbers, {number: shells[number] for number in sorted(shells)})
        rows = len(orbitals.atoms)
        if header.size not in (rows, 2 * rows):
            raise DataError(
                f"{self.folder}: the matrices have {header.size} rows, but the shells "
                f"{orbitals.basis.name} of {source} make {rows}; give shells=[...] of this calculation"
            )
        return orbitals, header.size == 2 * rows

    def _shells(self, labels: list[str], numbers: np.ndarray) -> tuple[str, dict[str, tuple[int, ...]]]:
        """Shells of each label and where they stand."""
        if self.given is not None:
            basis = OrbitalBasis.openmx(self.given)
            basis.check(numbers, str(self.folder))
            return "the option shells", {
                label: basis.shells[z] for label, z in zip(labels, numbers.tolist(), strict=True)
            }
        stru = stru_path(self.folder)
        for source, shells in _sources(self.log, stru):
            if set(labels) <= shells.keys():
                return source, shells
        looked = [str(path) for path in (self.log and self.log.path, stru) if path]
        raise DataError(
            f"{self.folder}: the shells of {', '.join(sorted(set(labels)))} are not told by "
            f"{' or '.join(looked) or 'a log or a STRU beside the folder'}; give them, such as "
            f"shells=[{labels[0]}-s2p2d1]"
        )


def _sources(log: RunLog | None, stru: Path | None) -> Iterator[tuple[str, dict[str, tuple[int, ...]]]]:
    if log is not None:
        yield str(log.path), log.shells
    if stru is not None:
        yield str(stru), stru_shells(stru)


def _structure(name: str, run: _Run, sparse: dict[str, SparseCells]) -> Structure:
    """The structure with the matrices that were read; pairs that one of them lacks get zeros in it."""
    _check_same_run(run, sparse)
    header = next(iter(sparse.values())).header
    cell = run.cell(header)
    orbitals, spinful = run.orbitals(header, cell)
    for one in sparse.values():
        if np.iscomplexobj(one.values) != spinful:
            kind = "complex" if np.iscomplexobj(one.values) else "real"
            raise DataError(
                f"{run.folder}: {kind} matrices with {header.size} rows for the {len(orbitals.atoms)} orbitals of "
                f"{orbitals.basis.name}; give shells=[...] of this calculation"
            )
    edges, blocks = abacus_blocks(orbitals, sparse, spinful=spinful)
    return Structure(
        name=name,
        numbers=orbitals.numbers,
        positions=cell.positions,
        lattice=cell.lattice,
        shells=orbitals.shells,
        spinful=spinful,
        fermi_level=run.fermi_level(header),
        edges=edges,
        **blocks,
    )


def _check_same_run(run: _Run, sparse: dict[str, SparseCells]) -> None:
    """Raise `DataError` if the files that were read are of different steps, structures or bases."""
    for matrix, one in sparse.items():
        spin = 2 if run.spin == "down" and matrix == "hamiltonian" else 1
        if one.header.spin not in (None, spin):
            raise DataError(
                f"{run.hamiltonian()}: is the file of spin {one.header.spin}, not of spin {spin}; take the files as "
                "ABACUS wrote them"
            )
    if len(sparse) < 2:
        return
    h, s = (sparse[matrix].header for matrix in ("hamiltonian", "overlap"))
    where = f"{run.hamiltonian()} and {run.overlap().name}"
    steps = [None if one.step is None else one.step + (one.layout != NEWER) for one in (h, s)]
    if None not in steps and steps[0] != steps[1]:
        raise DataError(f"{where}: are of the ionic steps {steps[0]} and {steps[1]}; take both of one step")
    if h.size != s.size:
        raise DataError(f"{where}: have {h.size} and {s.size} rows; take the files of one run")
    if h.cell is None or s.cell is None:
        return
    if h.cell.labels != s.cell.labels or any(
        np.abs(getattr(h.cell, what) - getattr(s.cell, what)).max() > _SAME_POSITION
        for what in ("positions", "lattice")
    ):
        raise DataError(
            f"{where}: have different atoms, positions or lattices; take the files of one run and step"
        )


def _element(label: str, folder: Path) -> int:
    """Atomic number of a label such as Fe, Fe1 or Fe_up."""
    number = NUMBERS.get(label[:2].strip("_0123456789")) or NUMBERS.get(label[:1])
    if not number:
        raise DataError(
            f"{folder}: the species {label!r} begins with no element; rename it in STRU, such as Fe1"
        )
    return number


def _found(folder: Path, kind: str) -> list[tuple[Path, int]]:
    """Files of one kind in a folder and the ionic step in their names (0 if there is none)."""
    matches = ((path, _PATTERNS[kind].fullmatch(path.name)) for path in folder.iterdir())
    return [(path, int(match[1] or 0)) for path, match in matches if match is not None]


def _output_folder(path: Path) -> Path | None:
    """A folder with matrices: this one, or the only ``OUT.*`` in it; else None."""
    if not path.is_dir():
        return None
    if any(_found(path, kind) for kind in _PATTERNS):
        return path
    inside = [
        one for one in path.glob("OUT.*") if one.is_dir() and any(_found(one, kind) for kind in _PATTERNS)
    ]
    return inside[0] if len(inside) == 1 else None
