"""CIF files: sites that are no definite atoms are refused by their names."""

import re
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import graphene

from tracegrad.errors import DataError
from tracegrad.physics.geometry_files.reading import check_crystal, read_frames

CARBON = "C1 C 0 0 0.5\nC2 C 0.5 0.5 0.5"


def cif(rows: str = CARBON, columns: str = "", head: str = "", name: str = "g") -> str:
    cell = "".join(f"_cell_length_{axis} {length}\n" for axis, length in zip("abc", (4, 4, 12), strict=True))
    angles = "".join(f"_cell_angle_{angle} 90\n" for angle in ("alpha", "beta", "gamma"))
    sites = "".join(
        f"_atom_site_{tag}\n" for tag in ("label", "type_symbol", "fract_x", "fract_y", "fract_z")
    )
    further = "".join(f"_atom_site_{tag}\n" for tag in columns.split())
    return f"data_{name}\n{cell}{angles}{head}loop_\n{sites}{further}{rows}\n"


def frames(folder: Path, text: str) -> list:
    path = folder / "g.cif"
    path.write_text(text)
    found = read_frames(path)
    for frame in found:
        check_crystal(frame)
    return found


def test_positions_are_those_of_ase(tmp_path: Path) -> None:
    cell = graphene(vacuum=10)
    cell.pbc = True
    ase.io.write(tmp_path / "two.cif", [cell, cell * (2, 1, 1)])
    found = read_frames(tmp_path / "two.cif")
    for frame, expected in zip(found, ase.io.read(tmp_path / "two.cif", index=":"), strict=True):
        np.testing.assert_array_equal(frame.atoms.positions, expected.positions)
        assert frame.atoms.pbc.all()


@pytest.mark.parametrize(
    ("text", "formula"),
    [
        (cif(), "C2"),
        (cif().replace("\n", "  \r\n"), "C2"),
        ("\ufeff" + cif(), "C2"),
        (cif("C1 C4+ 0 0 0.5(2)\nN1 N3- 0.5 0.5 0.5"), "CN"),
        (cif("C1 C 0 0 0.5 .\nC2 C 0.5 0.5 0.5 0.9998(5)", "occupancy"), "C2"),
        (cif("C1 C 0 0 0.5 1\nC2 C 0.5 0.5 0.5 -1", "charge"), "C2"),
        (cif(head="_symmetry_Int_Tables_number 1\n_space_group_symop_operation_xyz 'x,y,z'\n"), "C2"),
        (
            cif("Na1 Na 0 0 0\nCl1 Cl 0.5 0.5 0.5", head="_symmetry_Int_Tables_number 225\n").replace(
                "12", "4"
            ),
            "Cl4Na4",
        ),
        (cif() + "data_global\n_publ_author 'A B'\n", "C2"),
    ],
)
def test_good_files(tmp_path: Path, text: str, formula: str) -> None:
    (frame,) = frames(tmp_path, text)
    assert frame.atoms.get_chemical_formula() == formula


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "g.cif: not a readable CIF"),
        ("data_x\n_publ_author x\n", "g.cif: no data block of this CIF has atoms"),
        (
            cif("C1 C 0 0 0.5 1\nC2 C 0.5 0.5 0.5 0.5", "occupancy"),
            "g.cif (data_g), site C2: has occupancy 0.5;",
        ),
        (cif("C1 C 0 0 0.5 1\nC2 C 0.5 0.5 0.5 ?", "occupancy"), "site C2: has occupancy ?;"),
        (cif("C1 C 0 0 0.5 1\nC2 C 0.5 0.5 0.5 .", "disorder_group"), "site C1: is disordered"),
        (cif("C1 C 0 0 0.5\nN1 N 0 0 0.5"), "sites C1 and N1 are 0.00 angstrom apart"),
        (cif("C1 C 0 0 0.5\nC1' C 0 0 0.501"), "sites C1 and C1' are 0.01 angstrom apart"),
        (
            cif("C1 C 0.5 0.5 0.4\nC2 C 0.5 0.5 0.6", head="_symmetry_Int_Tables_number 2\n"),
            "sites C1 and C2 are one by symmetry",
        ),
        (cif("C1 C 0 0 0.5\nC2 C ? 0.5 0.5"), "site C2: _atom_site_fract_x is '?', no number"),
        (cif().replace("length_a 4", "length_a ?"), "site cell: _cell_length_a is '?'"),
        (cif("C1 C 0 0 0.5\nD2 D 0.5 0.5 0.5"), "site D2: 'D' is deuterium; isotopes"),
        (cif("C1 C 0 0 0.5\nSI2 SI 0.5 0.5 0.5"), "site SI2: the element of 'SI' is in doubt; write"),
        (cif("C1 C 0 0 0.5\nW1 Wat 0.5 0.5 0.5"), "site W1: the element of 'Wat' is in doubt"),
        (cif("C1 C 0 0 0.5\nC2 ? 0.5 0.5 0.5"), "site C2: the element of '?' is in doubt"),
        (cif("C1 C 0 0 0.5 1\nC2 C 0.5 0.5 0.5 0", "charge"), "has atomic charges that sum to 1"),
        (cif("C1 C 0 0 0.5 1\nC2 C 0.5 0.5 0.5 -1", "moment_crystalaxis_x"), "is a magnetic structure"),
        (cif("C1 C 0 0 0.5 7"), "its tables are damaged"),
        (
            cif(head="_symmetry_Int_Tables_number 225\n_space_group_symop_operation_xyz 'x,y,z'\n"),
            "the space group number 225 contradicts",
        ),
        (
            cif(
                "C1 C 0 0 0.1",
                head="_symmetry_Int_Tables_number 225\n_symmetry_space_group_name_H-M 'P -1'\n",
            ),
            "the space group number 225 contradicts",
        ),
        (cif(head="_symmetry_space_group_name_H-M 'Q 1'\n"), "ASE makes no crystal"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        frames(tmp_path, text)
