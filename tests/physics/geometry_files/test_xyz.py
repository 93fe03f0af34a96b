"""Files .xyz and .extxyz: every line is read, or refused with its number."""

import re
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from tracegrad.errors import DataError
from tracegrad.physics.geometry_files.reading import check_molecule, read_frames

WATER = "O 0 0 0.119\nH 0 0.763 -0.477\nH 0 -0.763 -0.477\n"


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "w.xyz"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    "content",
    [
        f"3\n\n{WATER}",
        f"\n3\nwater\n{WATER}\n\n",
        f"3\n\n{WATER}".replace("\n", "\r\n"),
        f"3\n\n{WATER}".replace("\n", "\r"),
        f"\ufeff3\n\n{WATER}",
        f"3\n\n{WATER}".encode("utf-16"),
        b"3\n5 \xc5\n" + WATER.encode(),
        f"3\n\n{WATER}".replace(" ", "\t\t").replace("\n", "  \n"),
        "3\n\n8 0 0 0.119\n1 0 .763 -0.477\n1 0 -7.63D-1 -0.477\n",
        "3\n\no 0 0 1.19d-1\nh 0 +0.763 -0.477\nh 0 -7.63*^-1 -0.477\n",
        "3\n\nO 0 0 0.119 1 2 3\nH 0 0.763 -0.477 0 0 0\nH 0 -0.763 -0.477 0 0 0\n",
        "3\nProperties=Z:I:1:pos:R:3\n8 0 0 0.119\n1 0 0.763 -0.477\n1 0 -0.763 -0.477\n",
        "3\nproperties=pos:R:3:species:S:1:f:L:1\n0 0 0.119 O T\n0 0.763 -0.477 H F\n0 -0.763 -0.477 H F\n",
    ],
)
def test_one_water_in_many_spellings(tmp_path: Path, content: str | bytes) -> None:
    (frame,) = read_frames(write(tmp_path, content))
    check_molecule(frame)
    assert frame.atoms.numbers.tolist() == [8, 1, 1]
    expected = [[0, 0, 0.119], [0, 0.763, -0.477], [0, -0.763, -0.477]]
    np.testing.assert_array_equal(frame.atoms.positions, expected)


def test_frames_after_empty_lines_are_read(tmp_path: Path) -> None:
    frames = read_frames(write(tmp_path, f"3\n\n{WATER}\n\n3\n\n{WATER}".replace("0.119", "0.12", 1)))
    assert [frame.atoms.positions[0, 2] for frame in frames] == [0.12, 0.119]
    assert [frame.place.rpartition("/")[2] for frame in frames] == ["w.xyz, frame 0", "w.xyz, frame 1"]


def test_positions_and_cells_are_those_of_ase(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = [
        Atoms("CNOFH", rng.normal(size=(5, 3)), cell=rng.normal(size=(3, 3)), pbc=pbc)
        for pbc in (True, False, [True, True, False])
    ]
    ase.io.write(tmp_path / "a.xyz", [*frames, molecule("C6H6")])
    found = read_frames(tmp_path / "a.xyz")
    for frame, expected in zip(found, ase.io.read(tmp_path / "a.xyz", index=":"), strict=True):
        np.testing.assert_array_equal(frame.atoms.positions, expected.positions)
        np.testing.assert_array_equal(frame.atoms.cell, expected.cell)
        assert frame.atoms.pbc.tolist() == expected.pbc.tolist()
        assert frame.atoms.numbers.tolist() == expected.numbers.tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", ": holds no atoms"),
        (WATER, ", line 1: 'O 0 0 0.119' is no number of atoms"),
        (f"three\n\n{WATER}", ", line 1: 'three' is no number of atoms"),
        (f"3 bohr\n\n{WATER}", ", line 1: '3 bohr' is no number of atoms"),
        ("0\n\n", ", line 1: '0' is no number of atoms"),
        (f"2\n\n{WATER}", ", line 5: 'H 0 -0.763 -0.477' follows the 2 atoms that line 1 says; correct that number"),
        (f"4\n\n{WATER}", ", line 6: the file ends, but line 1 says 4 atoms, of which 3 stand before"),
        (f"4\n\n{WATER}3\n\n{WATER}", ", line 6: no atom, but line 1 says 4 atoms, of which 3 stand before"),
        (f"6\n\n{WATER}\n{WATER}", ", line 6: no atom, but line 1 says 6 atoms"),
        (f"3\n\n{WATER}junk\n", ", line 6: 'junk' follows the 3 atoms that line 1 says"),
        (f"3\n\n{WATER}\n3\n\n{WATER}\njunk\n", ", line 13: 'junk' follows the 3 atoms that line 7 says"),
        (f"4\n{WATER}H 0 0 3\n", ", line 2: 'O 0 0 0.119' is an atom where the comment stands"),
        ("1\n\nH 0 0\n", ", line 3: 'H 0 0' is no atom"),
        ("1\n\nO1 0 0 1\n", ", line 3: 'O1' is a label, no element; write the symbol alone, such as O"),
        ("1\n\nH_a 0 0 1\n", ", line 3: 'H_a' is a label, no element; write the symbol alone, such as H"),
        ("1\n\nFe3+ 0 0 1\n", ", line 3: 'Fe3+' is a label, no element; write the symbol alone, such as Fe"),
        ("1\n\nD 0 0 1\n", ", line 3: 'D' is deuterium; isotopes have the same Hamiltonian, write H"),
        ("1\n\nT 0 0 1\n", ", line 3: 'T' is tritium"),
        ("1\n\nX 0 0 1\n", ", line 3: 'X' is no element but a ghost or dummy atom; remove it"),
        ("1\n\nH-Bq 0 0 1\n", ", line 3: 'H-Bq' is no element but a ghost"),
        ("1\n\n0 0 0 1\n", ", line 3: '0' is no element but a ghost"),
        ("1\n\n119 0 0 1\n", ", line 3: '119' is no element; write its symbol"),
        ("1\n\nTv 0 0 1\n", ", line 3: 'Tv' is a lattice vector; write it as Lattice="),
        ("1\n\nH 0 0 nan\n", ", line 3: 'nan' is not a finite number"),
        ("1\n\nH 0 0 0,5\n", ", line 3: '0,5' is not a finite number"),
        ("1\n\nH 0 0 1e999\n", ": a coordinate or lattice vector is not a finite number"),
        ("1\n\nH 0 0 1 0.3\n", ", line 3: has 5 columns, but element, x, y and z are 4; remove the others, or name"),
        ("2\n\nH 0 0 0\nH 0 0 1 1 1 1\n", ", line 4: has 7 columns, but the line above has 4"),
        ("1\nProperties=species:S:1:pos:R:3\nH 0 0 0 1\n", ", line 3: has 5 columns, but Properties in line 2"),
        ("1\nProperties=species:S:1\nH\n", ", line 2: Properties=species:S:1 is not understood"),
        ("1\nProperties=species:S:1:pos:R:3:Z:I:1\nH 0 0 0 2\n", ", line 3: the columns of elements differ: H and 2"),
        ('1\npbc="T x T"\nH 0 0 0\n', ', line 2: pbc="T x T" is not understood; write pbc="T T T"'),
        ('1\nLattice="9 9 9"\nH 0 0 0\n', ', line 2: Lattice="9 9 9" is not nine numbers'),
        ('1\ncell="9 9 9"\nH 0 0 0\n', ", line 2: cell= is not read; write the lattice vectors"),
        ("1\ncoordinates in bohr\nH 0 0 0\n", ", line 2: the unit of length is 'bohr'; convert"),
        ("1\nunits=bohr\nH 0 0 0\n", ", line 2: the unit of length is 'bohr'"),
        ("1\nlength_unit=nm\nH 0 0 0\n", ", line 2: the unit of length is 'nm'"),
        ("1\n(a.u.)\nH 0 0 0\n", ", line 2: the unit of length is 'a.u.'"),
    ],
)  # fmt: skip
def test_what_is_refused_is_named_by_its_line(tmp_path: Path, content: str, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(DataError, match=f"^{re.escape(str(path))}{re.escape(message)}"):
        read_frames(path)


@pytest.mark.parametrize(
    "comment",
    ["energy -76.2 a.u.", "forces in Hartree/Bohr", "Au", "units=Angstrom", "unit: angstrom", "units=eV"],
)
def test_other_units_in_a_comment_are_none_of_the_coordinates(tmp_path: Path, comment: str) -> None:
    assert len(read_frames(write(tmp_path, f"3\n{comment}\n{WATER}"))) == 1
