"""Reads CIF files: each data block with atoms is a frame; ambiguous sites are refused by name."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.geometry import get_distances
from ase.io.cif import CIFBlock, parse_cif
from ase.spacegroup import Spacegroup

from tracegrad.elements import NUMBERS
from tracegrad.errors import DataError
from tracegrad.physics.geometry_files.frame import Frame, Statement
from tracegrad.physics.geometry_files.values import isotope

_OVERLAP = 0.1  # angstrom; sites that are closer are alternatives for one position
_FULL = 1e-3  # tolerance of an occupancy of 1
_OPERATIONS = (
    "_space_group_symop_operation_xyz",
    "_space_group_symop.operation_xyz",
    "_symmetry_equiv_pos_as_xyz",
)
_GROUP_NUMBERS = ("_space_group.it_number", "_space_group_it_number", "_symmetry_int_tables_number")
_GROUP_NAMES = ("_space_group_name_h-m_alt", "_symmetry_space_group_name_h-m")
_MAGNETIC = ("_atom_site_moment", "_space_group_magn")


def read_cif(path: Path, text: str) -> list[Frame]:
    """All frames of a file with the content ``text``; ``path`` is named in messages.

    Raises:
        DataError: the file is no CIF, or has sites with partial occupancy, disorder, unknown coordinates or elements.
    """
    # ASE ends a table at a line of blanks only, or with nothing but the carriage return of Windows.
    lines = "\n".join(line.rstrip() for line in text.splitlines())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # ASE warns of damaged rows and drops them
            blocks = list(parse_cif(io.StringIO(lines)))
    except UserWarning as warning:
        raise DataError(
            f"{path}: its tables are damaged ({str(warning).splitlines()[0]}); correct them"
        ) from None
    except Exception as error:  # ASE raises many kinds of exceptions for files that it does not understand
        raise DataError(f"{path}: not a readable CIF; write the crystal again, or give a POSCAR") from error
    with_atoms = [block for block in blocks if any(tag.startswith("_atom_site_") for tag in block)]
    if not with_atoms:
        raise DataError(f"{path}: no data block of this CIF has atoms (_atom_site_fract_x ...)")
    several = len(with_atoms) > 1
    return [
        _frame(block, f"{path}, frame {index}" if several else str(path))
        for index, block in enumerate(with_atoms)
    ]


def _frame(block: CIFBlock, place: str) -> Frame:
    where = f"{place} (data_{block.name})"
    if any(tag.startswith(_MAGNETIC) for tag in block):
        raise DataError(
            f"{where}: is a magnetic structure; networks and reference data are of closed shells only"
        )
    names = _column(block, "_atom_site_label") or _column(block, "_atom_site_type_symbol")
    if names is None:
        raise DataError(f"{where}: its atoms have neither _atom_site_label nor _atom_site_type_symbol")
    symbols = _column(block, "_atom_site_type_symbol") or names
    for name, symbol in zip(names, symbols, strict=True):
        _check_symbol(str(symbol), f"{where}, site {name}")
    for tag in (
        *(f"_atom_site_{kind}_{axis}" for kind in ("fract", "cartn") for axis in "xyz"),
        *block.cell_tags,
    ):
        values = _column(block, tag)
        for name, value in zip(names if tag.startswith("_atom") else ["cell"], values or (), strict=False):
            if not isinstance(value, int | float) or not np.isfinite(value):
                raise DataError(f"{where}, site {name}: {tag} is {value!r}, no number; complete or remove it")
    _check_disorder(block, names, where)
    atoms = _atoms(block, names, where)
    statements = []
    for tag in block:
        if tag.startswith("_atom_site_") and "charge" in tag:
            sites = np.array(_column(block, tag), dtype=object)
            kinds = atoms.arrays.get("spacegroup_kinds", np.arange(len(atoms)))
            charges = " ".join(str(value) for value in sites[kinds])
            statements.append(Statement(where, tag, charges, column=True))
    return Frame(atoms, place, statements, "a CIF")


def _column(block: CIFBlock, tag: str) -> list[Any] | None:
    """The values of a tag for all sites (a list, even for a single site outside of a loop); None if it is absent."""
    value = block.get(tag)
    return value if value is None or isinstance(value, list) else [value]


def _check_symbol(symbol: str, where: str) -> None:
    """Refuse a symbol or label whose element is ambiguous by the rules with which ASE derives it."""
    letters = re.match(r"[A-Za-z]*", symbol)[0]  # type: ignore[index]
    if letters in ("D", "T"):
        raise DataError(f"{where}: {isotope(letters)}")
    element = letters[:2] if letters[1:2].islower() else letters[:1]
    doubtful = letters[1:2].isupper() and letters[:2].capitalize() in NUMBERS
    if element not in NUMBERS or element == "X" or doubtful or not element[:1].isupper():
        raise DataError(
            f"{where}: the element of {symbol!r} is in doubt; write _atom_site_type_symbol as a chemical "
            f"symbol, such as {letters[:2].capitalize() if doubtful else 'C'}"
        )


def _check_disorder(block: CIFBlock, names: list[Any], where: str) -> None:
    for name, value in _sites(block, names, "_atom_site_occupancy"):
        if value == ".":
            continue  # stands for the default, 1
        if not isinstance(value, int | float) or abs(value - 1) > _FULL:
            raise DataError(
                f"{where}, site {name}: has occupancy {value}; give a crystal in which every site is fully occupied"
            )
    for tag in ("_atom_site_disorder_group", "_atom_site_disorder_assembly"):
        for name, value in _sites(block, names, tag):
            if value not in (".", "?"):
                raise DataError(
                    f"{where}, site {name}: is disordered ({tag} {value}); choose one arrangement of the atoms"
                )
    for name, value in _sites(block, names, "_atom_site_calc_flag"):
        if value == "dum":
            raise DataError(f"{where}, site {name}: is a dummy (_atom_site_calc_flag dum); remove it")


def _sites(block: CIFBlock, names: list[Any], tag: str) -> Iterator[tuple[Any, Any]]:
    return zip(names, _column(block, tag) or (), strict=False)


def _atoms(block: CIFBlock, names: list[Any], where: str) -> Atoms:
    """All atoms of the cell, after the symmetry operations."""
    tags: dict[str, Any] = {
        tag: _column(block, tag) if tag.startswith("_atom_site_") else block[tag] for tag in block
    }
    block = CIFBlock(block.name, tags)
    operations = next((block[tag] for tag in _OPERATIONS if tag in block), None)
    number: Any = next((block[tag] for tag in _GROUP_NUMBERS if tag in block), None)
    try:
        sites = block.get_unsymmetrized_structure()
        _check_distances(sites, names, where)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            atoms = block.get_atoms(fractional_occupancies=False)
            consistent = number is None or int(block.get_spacegroup(True).no) == int(number)
    except DataError:
        raise
    except Exception as error:  # ASE raises many kinds of exceptions, also assertions
        raise DataError(
            f"{where}: ASE makes no crystal of its cell, space group and sites; correct them, or give a POSCAR"
        ) from error
    if number is not None and operations is not None and np.size(operations) == 1:
        consistent &= int(number) == 1
    name = next((block[tag] for tag in _GROUP_NAMES if tag in block), None)
    if number is not None and name is not None:
        with suppress(Exception):  # ASE does not know the names of all settings
            consistent &= Spacegroup(str(name)).no == int(number)
    if not consistent:
        raise DataError(
            f"{where}: the space group number {number} contradicts its name or its symmetry operations"
        )
    for warning in caught:
        message = str(warning.message)
        same = re.search(r"scaled_positions (\d+) and (\d+) are equivalent", message)
        if same:
            raise DataError(
                f"{where}: sites {names[int(same[1])]} and {names[int(same[2])]} are one by symmetry; remove one"
            )
        if "setting" in message and operations is None and _two_settings(atoms.info["spacegroup"].no):
            raise DataError(
                f"{where}: the setting of the space group is in doubt; add the symmetry operations "
                "(_space_group_symop_operation_xyz), or give a POSCAR"
            )
    return atoms


def _check_distances(sites: Atoms, names: list[Any], where: str) -> None:
    _, distances = get_distances(sites.positions, cell=sites.cell, pbc=sites.cell.rank == 3)
    np.fill_diagonal(distances, np.inf)
    if distances.min() < _OVERLAP:
        i, j = np.unravel_index(distances.argmin(), distances.shape)
        raise DataError(
            f"{where}: sites {names[i]} and {names[j]} are {distances.min():.2f} angstrom apart; choose one of them"
        )


def _two_settings(number: int) -> bool:
    try:
        Spacegroup(number, setting=2)
    except Exception:  # raised by ASE if its table has no second setting
        return False
    return True
