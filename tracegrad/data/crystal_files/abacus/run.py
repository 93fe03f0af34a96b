"""What a run of ABACUS says about its matrices in other files: its log, STRU, and the eigenvalues that it printed.

The log is ``OUT.*/running_scf.log`` (or that of another calculation), with the atoms as ABACUS uses them: ordered by
species, and moved into the cell. STRU stands beside ``OUT.*`` and names the orbital files of the species.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from tracegrad.data.crystal_files.abacus.csr import AbacusCell, content_of
from tracegrad.data.crystals.reference_bands import ReferenceBands
from tracegrad.errors import DataError
from tracegrad.hamiltonian.basis import LETTERS
from tracegrad.units import ANGSTROM_PER_BOHR

_NUMBER = r"([-+0-9.eE]+)"
_CONSTANT = re.compile(rf"lattice constant \(Bohr\) *= *{_NUMBER}", re.IGNORECASE)
_SPECIES = re.compile(r"READING ATOM TYPE")
_LABEL = re.compile(r"atom label *= *(\S+)", re.IGNORECASE)
_ZETAS = re.compile(r"L *= *(\d+), *number of zeta *= *(\d+)", re.IGNORECASE)
_COORDINATES = re.compile(r"^ *(CARTESIAN|DIRECT) COORDINATES.*$", re.MULTILINE)
_UNIT = re.compile(rf"UNIT *= *{_NUMBER} *Bohr", re.IGNORECASE)
_OF_TYPE = re.compile(r"number of atoms? for this type *= *(\d+)", re.IGNORECASE)
_ATOM = re.compile(rf" *tau[cd]?_\S+ +{_NUMBER} +{_NUMBER} +{_NUMBER}")
_VECTORS = re.compile(r"Lattice vectors: \(Cartesian coordinate: in unit of a_?0\)")
_LEVELS = re.compile(rf"EFERMI *= *{_NUMBER} *eV|^ *E_Fermi +{_NUMBER} +{_NUMBER} *$", re.MULTILINE)
_ORBITAL_FILE = re.compile(r"_((?:[1-9][spdfghi])+)\.orb$", re.IGNORECASE)
_OLDER_POINT = re.compile(r"^BAND .*?Kpoint = *\d+ *\(([^)]*)\)", re.MULTILINE)
_NEWER_POINT = re.compile(r"^ *spin=(\d+) k-point=\d+/\d+ Cartesian= *(\S+) +(\S+) +(\S+) .*$", re.MULTILINE)


@dataclass(frozen=True)
class RunLog:
    """The log of a run, which is read when it is needed.

    Args:
        path: its file, plain or compressed with gzip.
    """

    path: Path

    @cached_property
    def text(self) -> str:
        """Its content."""
        return content_of(self.path).decode("utf-8", "replace")

    @property
    def fermi_level(self) -> float | None:
        """The last one, eV."""
        found = _LEVELS.findall(self.text)
        return float(found[-1][0] or found[-1][2]) if found else None

    @property
    def shells(self) -> dict[str, tuple[int, ...]]:
        """Degrees of the shells of each label; empty if the log does not list them."""
        return {label: degrees for label, degrees, _ in self._species if degrees}

    @property
    def _species(self) -> list[tuple[str, tuple[int, ...], int]]:
        """Label, degrees of the shells and number of atoms of each species."""
        species = []
        for part in _SPECIES.split(self.text)[1:]:
            label, zetas, atoms = _LABEL.search(part), _ZETAS.findall(part), _OF_TYPE.search(part)
            if label is not None and atoms is not None:
                degrees = (int(degree) for degree, count in zetas for _ in range(int(count)))
                species.append((label[1], tuple(degrees), int(atoms[1])))
        return species

    def cell(self, step: int) -> AbacusCell:
        """The structure of an ionic step, counted from 0.

        Raises:
            DataError: the log does not have it.
        """
        constant = _CONSTANT.search(self.text)
        titles = list(_COORDINATES.finditer(self.text))
        lattices = [match.end() for match in _VECTORS.finditer(self.text)]
        if constant is None or not titles or not lattices:
            raise DataError(
                f"{self.path}: has no lattice constant, coordinates or lattice vectors; give the log of the run that "
                "wrote the matrices"
            )
        if step >= len(titles):
            raise DataError(
                f"{self.path}: has the positions of {len(titles)} ionic steps, but the matrices are of step "
                f"{step + 1}; give the log of the run that wrote them"
            )
        title = titles[step]
        end = titles[step + 1].start() if step + 1 < len(titles) else len(self.text)
        rows_of_atoms = _rows(self.text, title.end(), end)
        labels = [label for label, _, count in self._species for _ in range(count)]
        start = lattices[min(step, len(lattices) - 1)]
        try:
            unit = float(constant[1]) * ANGSTROM_PER_BOHR
            rows = [[float(word) for word in line.split()] for line in self.text[start:].split("\n")[1:4]]
            lattice = unit * np.array(rows, dtype=np.float64).reshape(3, 3)
            positions = np.array([[float(x) for x in row] for row in rows_of_atoms], dtype=np.float64)
            own = _UNIT.search(title[0])
            scale = float(own[1]) * ANGSTROM_PER_BOHR if own else unit
            if not labels or len(positions) != len(labels):
                raise ValueError(f"{len(positions)} positions of {len(labels)} atoms")
        except ValueError as error:
            raise DataError(f"{self.path}: coordinates or lattice are not understood ({error})") from error
        cartesian = title[1].upper() == "CARTESIAN"
        return AbacusCell(labels, lattice, unit, positions * scale if cartesian else positions @ lattice)


def _rows(text: str, start: int, end: int) -> list[tuple[str, ...]]:
    """Coordinates in the consecutive lines of atoms below a title."""
    rows: list[tuple[str, ...]] = []
    for line in text[start:end].split("\n")[1:]:
        match = _ATOM.match(line)
        if match is None and rows:
            break
        if match is not None:
            rows.append((match[1], match[2], match[3]))
    return rows


def find_log(folder: Path) -> RunLog | None:
    """The log in a folder of output, or None."""
    found = sorted(path for path in folder.glob("running_*.log*") if path.name.endswith((".log", ".log.gz")))
    if not found:
        return None
    if len(found) > 1:
        raise DataError(
            f"{folder}: holds the logs {', '.join(path.name for path in found)}; keep that of the run that wrote the "
            "matrices"
        )
    return RunLog(found[0])


def stru_path(folder: Path) -> Path | None:
    """STRU beside a folder of output or in it."""
    return next(
        (path for path in (folder.resolve().parent / "STRU", folder / "STRU") if path.is_file()), None
    )


def stru_shells(path: Path) -> dict[str, tuple[int, ...]]:
    """Degrees of the shells of each label from the names of the orbital files in STRU; without those that do not say.

    Raises:
        DataError: the file cannot be read.
    """
    lines = [
        re.split(r"#|//", line)[0].split() for line in content_of(path).decode("utf-8", "replace").split("\n")
    ]
    tables: dict[str, list[list[str]]] = {}
    title = ""
    for words in filter(None, lines):
        if len(words) == 1 and words[0].isupper() and "_" in words[0] and "." not in words[0]:
            title = words[0]
        else:
            tables.setdefault(title, []).append(words)
    labels = [words[0] for words in tables.get("ATOMIC_SPECIES", [])]
    files = [words[0] for words in tables.get("NUMERICAL_ORBITAL", [])]
    shells = {}
    for label, file in zip(labels, files, strict=False):
        match = _ORBITAL_FILE.search(file)
        if match is not None:
            pairs = re.findall(r"([1-9])([a-z])", match[1].lower())
            degrees = sorted((LETTERS.index(letter), int(count)) for count, letter in pairs)
            shells[label] = tuple(degree for degree, count in degrees for _ in range(count))
    return shells


def read_eigenvalues(folder: Path, cell: AbacusCell) -> ReferenceBands | None:
    """The eigenvalues that a run printed, from ``istate.info``, ``eig_occ.txt`` or ``eig.txt``, or None.

    Args:
        folder: folder of output.
        cell: its structure; the newer files give k in Cartesian units of 2 pi over the lattice constant.

    Raises:
        DataError: the file is damaged.
    """
    names = [
        f"{name}{suffix}" for name in ("istate.info", "eig_occ.txt", "eig.txt") for suffix in ("", ".gz")
    ]
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        return None
    text = content_of(path).decode("utf-8", "replace")
    older = path.name.startswith("istate")
    if not older:  # of several ionic steps the last one
        text = text[max(text.rfind("Electronic state energy"), 0) :]
    points = list((_OLDER_POINT if older else _NEWER_POINT).finditer(text))
    try:
        tables = []
        for n, point in enumerate(points):
            end = points[n + 1].start() if n + 1 < len(points) else len(text)
            body = text[text.index("\n", point.end()) : end].split("\n")
            tables.append(np.array([[float(word) for word in line.split()] for line in body if line.strip()]))
        if older:
            k = np.array([[float(word) for word in point[1].split()] for point in points])
            energies = np.array(tables)[:, :, 1::2].transpose(2, 0, 1)
        else:
            spins = max(int(point[1]) for point in points)
            cartesian = np.array([[float(point[n]) for n in (2, 3, 4)] for point in points])
            k = (cartesian @ cell.lattice.T / cell.constant)[: len(points) // spins]
            energies = np.array(tables)[:, :, 1].reshape(spins, len(k), -1)
        return ReferenceBands(str(path), k.reshape(-1, 3), energies, absolute=True)
    except (ValueError, IndexError) as error:
        raise DataError(f"{path}: is not understood ({error}); remove it if it is damaged") from error
