"""Reading of all formats: frames, periodicity, names of files, and python -O."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene, molecule

from tracegrad.errors import DataError
from tracegrad.physics.geometry_files.reading import check_crystal, check_molecule, one_frame, read_frames

POSCAR = "c\n1.0\n4 0 0\n0 4 0\n0 0 9\n{}\n{}\n{}"
DIRECT = "Direct\n0 0 0\n.5 .5 .5\n"


def layer() -> Atoms:
    atoms = graphene(vacuum=10)
    atoms.pbc = True
    return atoms


CRYSTALS = {
    "g.xyz": "extxyz", "g.traj": "traj", "g.json": "json", "g.db": "db", "g.cif": "cif", "POSCAR": "vasp",
    "CONTCAR_2": "vasp", "g.vasp": "vasp", "XDATCAR": "vasp-xdatcar", "g.xsf": "xsf", "g.gen": "gen",
    "g@2.xyz": "extxyz", "g.xyz.gz": "extxyz", "g.cif.bz2": "cif",
}  # fmt: skip
MOLECULES = {
    "w.xyz": "extxyz", "w.traj": "traj", "w.json": "json", "w.db": "db", "w.mol": "sdf", "w.sdf": "sdf",
    "w.pdb": "proteindatabank", "w.gen": "gen", "w.xsf": "xsf",
}  # fmt: skip


@pytest.mark.parametrize(("name", "kind"), CRYSTALS.items())
def test_crystals(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    ase.io.write(path, layer(), format=kind)
    frame = one_frame(path, None)
    check_crystal(frame)
    expected = ase.io.read(path, format=kind, do_not_split_by_at_sign=True)
    np.testing.assert_array_equal(frame.atoms.positions, expected.positions)
    np.testing.assert_array_equal(frame.atoms.cell, expected.cell)
    with pytest.raises(DataError, match=r"is periodic \(.*\), a molecule is needed"):
        check_molecule(frame)


@pytest.mark.parametrize(("name", "kind"), MOLECULES.items())
def test_molecules(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    ase.io.write(path, molecule("CH4"), format=kind)
    frame = one_frame(path, None)
    assert check_molecule(frame) is False
    np.testing.assert_array_equal(frame.atoms.positions, ase.io.read(path, format=kind).positions)
    with pytest.raises(DataError, match="the cell has 0 vectors"):
        check_crystal(frame)


@pytest.mark.parametrize("name", ["two.xyz", "two.traj", "two.json", "two.cif", "XDATCAR"])
def test_one_of_several_frames_has_to_be_chosen(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    shifted = layer()
    shifted.positions += 0.1
    ase.io.write(path, [layer(), shifted])
    with pytest.raises(DataError, match=rf"{name}: holds 2 frames; choose one with frame=0 \.\.\. frame=1"):
        one_frame(path, None)
    first, second = read_frames(path)
    for number, expected in ((0, first), (1, second), (-1, second), (-2, first)):
        np.testing.assert_array_equal(one_frame(path, number).atoms.positions, expected.atoms.positions)
    for number in (2, -3):
        with pytest.raises(DataError, match=rf"has no frame {number}; there are frames 0 to 1"):
            one_frame(path, number)


@pytest.mark.parametrize("name", ["n.xyz", "n.traj", "n.json"])
def test_a_cell_and_the_directions_of_periodicity(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    box = molecule("H2O")
    box.cell = [9, 9, 9]
    ase.io.write(path, box)
    check_molecule(one_frame(path, None))  # in a box
    with pytest.raises(
        DataError, match=r'not periodic \(pbc="F F F"\); write pbc="T T T", or pbc="T T F" for a layer'
    ):
        check_crystal(one_frame(path, None))
    box.pbc = [True, True, False]
    ase.io.write(path, box)
    frame = one_frame(path, None)
    check_crystal(frame)
    assert frame.atoms.pbc.tolist() == [True, True, False]
    with pytest.raises(DataError, match=r'is periodic \(pbc="T T F"\).*; write pbc="F F F"'):
        check_molecule(frame)


def test_formats_without_flags_are_not_told_to_write_some(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "POSCAR", bulk("Si"), format="vasp")
    with pytest.raises(
        DataError, match=r"is periodic \(POSCAR file\), a molecule is needed; give molecules as"
    ):
        check_molecule(one_frame(tmp_path / "POSCAR", None))


def test_a_lattice_alone_is_periodic(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text('1\nLattice="9 0 0 0 9 0 0 0 9"\nHe 0 0 0\n')
    frame = one_frame(tmp_path / "a.xyz", None)
    check_crystal(frame)
    with pytest.raises(DataError, match=r"is periodic \(Lattice without pbc\)"):
        check_molecule(frame)
    (tmp_path / "a.xyz").write_text('1\nLattice="1 0 0 2 0 0 0 0 9"\nHe 0 0 0\n')
    with pytest.raises(DataError, match=r"the lattice vectors .* span no volume"):
        check_crystal(one_frame(tmp_path / "a.xyz", None))


@pytest.mark.parametrize(
    ("symbols", "counts", "rows", "message"),
    [
        ("D", "2", DIRECT, "line 6: 'D' is deuterium"),
        ("C1", "2", DIRECT, "line 6: 'C1' is a label"),
        ("C N", "2", DIRECT, "line 7: '2' is not a number of atoms for each of C N"),
        (
            "2",
            "Direct",
            "0 0 0\n",
            "line 6: '2' are numbers of atoms; put a line of element symbols before it",
        ),
        ("C", "3", DIRECT, "line 11: is no position; line 7 says 3 atoms, 2 are there"),
        ("C", "1", DIRECT, "line 10: is one position more than the 1 atoms of line 7"),
        ("C", "2", "Direct\n0 0 0\n.5 .5 nan\n", "line 10: is no position"),
        ("C_h", "2", f"{DIRECT}\n0 0 0\n0 0 0\n", None),
        ("C N", "1 1", "Selective dynamics\nDirect\n0 0 0 T T T\n.5 .5 .5 F F F\n", None),
    ],
)
def test_poscars(tmp_path: Path, symbols: str, counts: str, rows: str, message: str | None) -> None:
    path = tmp_path / "POSCAR"
    path.write_text(POSCAR.format(symbols, counts, rows))
    if message is None:
        assert len(one_frame(path, None).atoms) == 2
        return
    with pytest.raises(DataError, match=f"POSCAR, {message}"):
        read_frames(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.traj", b"nothing", "not a readable trajectory"),
        ("a.json", b"{}", r"not a readable \.json \(ASE database\)"),
        ("a.xsf", b"CRYSTAL\nnothing", "not a readable xsf"),
        ("a.gen", b"2 C\n", "not a readable gen"),
        ("a.sdf", b"a\nb\n", "not a molfile of version V2000"),
        ("a.xyz.gz", b"nothing", "cannot be read"),
        ("OUTCAR", b"", r"the name tells the format of a geometry, and this is none of \.xyz, .*ase convert"),
        ("a.gjf", b"", r"the name tells .* none of \.xyz"),
        ("none.xyz", None, "no such file"),
        ("", None, "is a folder"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path}: {message}"):
        read_frames(path)


def test_another_database_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "qh9.db"
    with sqlite3.connect(path) as database:
        database.execute("create table data (id integer)")
    database.close()
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"qh9\.db: not a database of ASE"):
        read_frames(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["qh9.db"]


def test_without_assertions(tmp_path: Path) -> None:
    """Under python -O ASE cannot guess formats."""
    for name in ("g.xyz", "g.traj", "g.json", "g.cif", "POSCAR", "g.xsf", "g.gen"):
        ase.io.write(tmp_path / name, layer(), format=CRYSTALS[name])
    (tmp_path / "bad.xyz").write_text("1\n\nO1 0 0 0\n")
    (tmp_path / "bad.cif").write_text("data_x\n_atom_site_label C1\n")
    code = (
        "import sys\nfrom pathlib import Path\nfrom tracegrad.errors import DataError\n"
        "from tracegrad.physics.geometry_files.reading import check_crystal, one_frame\n"
        "for path in sorted(Path(sys.argv[1]).iterdir()):\n"
        "    try:\n        frame = one_frame(path, None)\n        check_crystal(frame)\n"
        "        print(path.name, len(frame.atoms))\n"
        "    except DataError as error:\n        print(str(error).rpartition('/')[2])\n"
    )
    done = subprocess.run(
        [sys.executable, "-O", "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 9, done.stderr
    assert [line for line in lines if not line.startswith("bad")] == [
        f"{name} 2" for name in ("POSCAR", "g.cif", "g.gen", "g.json", "g.traj", "g.xsf", "g.xyz")
    ]
    assert "bad.xyz, line 3: 'O1' is a label" in done.stdout
