"""Reads geometries from files in many formats; all commands use this module.

A format is read if it is known where it states charge and spin. In other formats (inputs and outputs of programs) ASE
drops these, so they are refused with a hint how to convert them.
"""

import io
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import ase.db
import ase.io
import numpy as np
from ase import Atoms
from ase.io.formats import get_compression, open_with_compression

from tracegrad.errors import DataError
from tracegrad.physics.geometry_files.cif import read_cif
from tracegrad.physics.geometry_files.comment import statements_in
from tracegrad.physics.geometry_files.frame import Frame, Statement
from tracegrad.physics.geometry_files.sections import molfile_statements, pdb_statements
from tracegrad.physics.geometry_files.state import check_state
from tracegrad.physics.geometry_files.vasp import check_vasp
from tracegrad.physics.geometry_files.xyz import read_xyz

# Pattern of file names -> ASE's name of the format; the first pattern that matches counts.
FORMATS = {
    "*.xyz": "extxyz",
    "*.extxyz": "extxyz",
    "*.traj": "traj",
    "*.json": "json",
    "*.db": "db",
    "*.cif": "cif",
    "*.mcif": "cif",
    "*.vasp": "vasp",
    "*.poscar": "vasp",
    "*.xsf": "xsf",
    "*.gen": "gen",
    "*.mol": "sdf",
    "*.sdf": "sdf",
    "*.pdb": "proteindatabank",
    "*xdatcar*": "vasp-xdatcar",
    "*poscar*": "vasp",
    "*contcar*": "vasp",
}
READABLE = (
    ".xyz, .extxyz, .traj, .json and .db (of ASE), .cif, POSCAR, CONTCAR, XDATCAR, .vasp, .xsf, .gen, .mol, .sdf, "
    ".pdb"
)
# Arrays of ASE's atoms that have nothing to do with charge and spin.
_GEOMETRY = {"numbers", "positions", "momenta", "masses", "tags"}


def read_frames(path: Path) -> list[Frame]:
    """All frames of a file, in their order, each with at least one atom; charge and spin are not checked.

    Raises:
        DataError: the file does not exist, has another format, is damaged or ambiguous.
    """
    if not path.is_file():
        raise DataError(
            f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; give a file, such as an .xyz"
        )
    kind = format_of(path)
    frames = _read(path, kind)
    for frame in frames:
        if not len(frame.atoms):
            raise DataError(f"{frame.place}: holds no atoms")
        if not frame.atoms.numbers.all():
            index = int(frame.atoms.numbers.argmin())
            raise DataError(f"{frame.place}: atom {index} (counted from 0) is X, no element; remove it")
        if not (np.isfinite(frame.atoms.positions).all() and np.isfinite(frame.atoms.cell.array).all()):
            raise DataError(f"{frame.place}: a coordinate or lattice vector is not a finite number")
    if not frames:
        raise DataError(f"{path}: holds no atoms")
    return frames


def one_frame(path: Path, frame: int | None) -> Frame:
    """One frame of a file; ``frame`` counts from 0, negative numbers from the end; None: the only frame.

    Raises:
        DataError: see `read_frames`; there are several frames and ``frame`` is None; or the frame does not exist.
    """
    frames = read_frames(path)
    last = len(frames) - 1
    if frame is None and last:
        raise DataError(f"{path}: holds {len(frames)} frames; choose one with frame=0 ... frame={last}")
    if frame is not None and not -len(frames) <= frame <= last:
        there = f"frames 0 to {last}" if last else "one frame, 0"
        raise DataError(f"{path}: has no frame {frame}; there {'are' if last else 'is'} {there}")
    return frames[frame or 0]


def check_molecule(frame: Frame) -> bool:
    """Refuse a geometry that is periodic, charged or has open shells; return whether the file states its charge (0).

    Raises:
        DataError: the geometry is no neutral closed-shell molecule; the message says what to write if it is one.
    """
    stated = check_state(frame)
    if frame.atoms.pbc.any():
        remedy = (
            'write pbc="F F F" where it is a molecule in a box'
            if frame.pbc[:3] in ("pbc", "Lat")
            else "give molecules as .xyz"
        )
        how = f" ({frame.pbc})" if frame.pbc else ""
        raise DataError(f"{frame.place}: is periodic{how}, a molecule is needed; {remedy}")
    return stated


def check_crystal(frame: Frame) -> None:
    """Refuse a geometry that is no crystal, or has a charge, open shells or magnetic moments.

    Raises:
        DataError: with what is missing or stated, and what to write instead.
    """
    check_state(frame)
    check_cell(frame)


def check_cell(frame: Frame) -> None:
    """Refuse a geometry without three independent lattice vectors, or with a cell but without periodicity.

    Raises:
        DataError: with what is missing, and what to write.
    """
    atoms = frame.atoms
    if atoms.cell.rank < 3:
        raise DataError(
            f"{frame.place}: the cell has {atoms.cell.rank} vectors; give three, for a layer with a vacuum"
        )
    lattice = atoms.cell.array
    if not abs(np.linalg.det(lattice)) > 1e-6 * np.prod(np.linalg.norm(lattice, axis=1)):
        raise DataError(
            f"{frame.place}: the lattice vectors {lattice.tolist()} span no volume; give three independent ones"
        )
    if not atoms.pbc.any():
        how = frame.pbc or "its flags pbc"
        raise DataError(
            f'{frame.place}: has a cell, but is not periodic ({how}); write pbc="T T T", or pbc="T T F" for a layer, '
            "into an extended .xyz"
        )


def format_of(path: Path) -> str:
    """ASE's name of the format of a file, from the file name.

    Raises:
        DataError: the file name belongs to no format that is read.
    """
    name = Path(get_compression(str(path))[0]).name.lower()
    for pattern, kind in FORMATS.items():
        if fnmatchcase(name, pattern):
            return kind
    raise DataError(
        f"{path}: the name tells the format of a geometry, and this is none of {READABLE}; convert the file, such as "
        "with ase convert FILE FILE.xyz, and add charge and multiplicity to the comment line unless they are 0 and 1"
    )


def _read(path: Path, kind: str) -> list[Frame]:
    if kind in ("traj", "json", "db"):
        return _as_frames(path, _ase_frames(path, kind))
    try:
        text = _text(path)
    except Exception as error:  # every compression raises other kinds of exceptions
        raise DataError(f"{path}: cannot be read ({error})") from error
    if kind == "extxyz":
        return read_xyz(path, text)
    if kind == "cif":
        return read_cif(path, text)
    if not text.strip():
        raise DataError(f"{path}: holds no atoms")
    statements: list[Statement] = []
    if kind.startswith("vasp"):
        check_vasp(path, text, trajectory=kind == "vasp-xdatcar")
    elif kind in _STATEMENTS:
        statements = _STATEMENTS[kind](path, text)
    frames = _as_frames(path, _ase_frames(path, kind, text), f"{_TITLES.get(kind, kind)} file")
    return [replace(frame, statements=[*statements, *frame.statements]) for frame in frames]


_STATEMENTS: Mapping[str, Callable[[Path, str], list[Statement]]] = {
    "sdf": molfile_statements,
    "proteindatabank": pdb_statements,
}


def _text(path: Path) -> str:
    with open_with_compression(str(path), "rb") as file:
        content = file.read()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")  # old programs write comments in this encoding


def _ase_frames(path: Path, kind: str, text: str | None = None) -> list[Atoms]:
    try:
        if kind in ("json", "db"):
            return _database_rows(path, kind)
        # The format is passed because ASE cannot guess it under python -O; a file name may contain an @.
        source = str(path) if text is None else io.StringIO(text)
        frames = ase.io.read(source, index=":", format=kind, do_not_split_by_at_sign=True)
    except DataError:
        raise
    except Exception as error:  # ASE raises many kinds of exceptions for files that it does not understand
        raise DataError(
            f"{path}: not a readable {_TITLES.get(kind, kind)} file; write it again, or give an .xyz in angstrom"
        ) from error
    return frames if isinstance(frames, list) else [frames]


_TITLES = {
    "vasp": "POSCAR",
    "vasp-xdatcar": "XDATCAR",
    "traj": "trajectory (.traj)",
    "json": ".json (ASE database)",
    "db": ".db (ASE database)",
    "sdf": ".mol or .sdf",
    "proteindatabank": ".pdb",
}


def _database_rows(path: Path, kind: str) -> list[Atoms]:
    """Rows of a database of ASE, with their key-value pairs and data in `Atoms.info`."""
    if kind == "db":  # checked first, because ASE creates its tables in any SQLite file that it opens
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as file:
            tables = file.execute("SELECT count(*) FROM sqlite_master WHERE name = 'systems'").fetchone()[0]
        if not tables:
            raise DataError(f"{path}: not a database of ASE, so it holds no geometries that could be read")
    with ase.db.connect(str(path), type=kind, serial=True) as database:
        return [row.toatoms(add_additional_information=True) for row in database.select()]


def _as_frames(path: Path, frames: list[Atoms], kind: str = "") -> list[Frame]:
    """Frames of ASE's atoms with their statements on charge and spin.

    ``kind`` names a format without flags pbc, whose frames are periodic because of the format.
    """
    result = []
    for index, atoms in enumerate(frames):
        place = f"{path}, frame {index}" if len(frames) > 1 else str(path)
        flags = " ".join("FT"[int(flag)] for flag in atoms.pbc)
        result.append(Frame(atoms, place, list(_statements(atoms, place)), kind or f'pbc="{flags}"'))
    return result


def _statements(atoms: Atoms, place: str) -> Iterator[Statement]:
    for name, values in atoms.arrays.items():
        if name not in _GEOMETRY:
            yield Statement(place, name, values, column=True)
    yield from _entries(atoms.info, place)
    if atoms.calc is not None:
        yield from _entries(atoms.calc.parameters or {}, place)
        for name, value in atoms.calc.results.items():
            yield Statement(place, name, value, column=np.ndim(value) > 0 and len(value) == len(atoms))


def _entries(mapping: Mapping[Any, Any], place: str) -> Iterator[Statement]:
    for key, value in mapping.items():
        if isinstance(key, str):
            yield Statement(place, key, value)
        if isinstance(value, Mapping):
            yield from _entries(value, place)
        if isinstance(value, str):
            for name, stated in statements_in(value):
                yield Statement(f"{place} ({key})", name, stated)
