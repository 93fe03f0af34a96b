"""Charge, multiplicity, spin, moments and atomic charges in every format that can state them."""

from pathlib import Path
from typing import Any

import ase.db
import ase.io
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

from tracegrad.errors import DataError
from tracegrad.physics.geometry_files.reading import check_crystal, check_molecule, read_frames

WATER = "O 0 0 0.119\nH 0 0.763 -0.477\nH 0 -0.763 -0.477\n"
COLUMN = "Properties=species:S:1:pos:R:3:{}"


def check(path: Path) -> list[bool]:
    return [check_molecule(frame) for frame in read_frames(path)]


def with_comment(folder: Path, comment: str, column: str = "") -> Path:
    rows = WATER.splitlines()
    if column:
        rows = [f"{row} {value}" for row, value in zip(rows, column.split(), strict=True)]
    path = folder / "w.xyz"
    path.write_text("\n".join(["3", comment, *rows, ""]), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("comment", "message"),
    [
        ("charge=2", r"has charge 2 \(charge=2\)"),
        ("Charge=2", "has charge 2"),
        ("CHARGE=+1", "has charge 1"),
        ("tot_charge = 1", "has charge 1"),
        ("total_charge=-1", "has charge -1"),
        ("netCharge=1", "has charge 1"),
        ("'total charge'=1", "has charge 1"),
        ("REF_charge=1", "has charge 1"),
        ("formal charge: +1", "has charge 1"),
        ("q=1", "has charge 1"),
        ("charge 2", "has charge 2"),
        ("total charge: -1, B3LYP", "has charge -1"),
        ('{"charge": 1, "spin": 2}', "has charge 1"),
        ('comment="charge=2"', "has charge 2"),
        ("charge=0 charge=1", "has charge 1"),
        ("charge=1,multiplicity=2", "has charge 1"),
        ("charge=two", "charge=two is not understood as a number; write charge=0"),
        ("charge=1-", "charge=1- is not understood"),
        ("charge=\N{MINUS SIGN}1", "is not understood"),
        ("charge=", "charge= is not understood"),
        ("charge=nan", "charge=nan is not understood"),
        ("multiplicity=3", "has multiplicity=3"),
        ("mult=2", "has mult=2"),
        ("spin_multiplicity=3", "has spin_multiplicity=3"),
        ("spin=2", "has spin=2"),
        ("spin=1", "spin=1 may be a multiplicity or unpaired electrons; write multiplicity=1"),
        ("uhf=2", "has uhf=2"),
        ("nelec=9", "has nelec=9, but the neutral geometry has 10 electrons"),
        ("magmom=2", r"has magnetic moments up to 2 \(magmom\)"),
        ('magmoms="0 1 -1"', "has magnetic moments up to 1"),
        ('initial_charges="0.5 0.25 0.25"', "has atomic charges that sum to 1"),
        ("charges=[1,0]", "has 2 charges for 3 atoms"),
        ("1 1", r"\('1 1' reads as charge and multiplicity\): has charge 1"),
        ("0 3", r"\('0 3' reads as charge and multiplicity\): has multiplicity=3"),
    ],
)
def test_other_states_in_a_comment_line_are_refused(tmp_path: Path, comment: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"w\.xyz, line 2.*{message}"):
        check(with_comment(tmp_path, comment))


@pytest.mark.parametrize(
    ("comment", "stated"),
    [
        ("charge=0 multiplicity=1", True),
        ("charge=0.0 spin=0 uhf=0 nelec=10", True),
        ("0 1", True),
        ("Charge: 0", True),
        ('initial_charges="-0.8 0.4 0.4"', True),
        ("17", False),
        ("12 45", False),
        ("i = 12, time = 1.5, E = -17.1", False),
        ('nuclear_charges="8 1 1" nspin=2', False),
        ("smiles=C[N+](=O)[O-]", False),
        ("charge", False),
    ],
)
def test_neutral_singlets_and_free_text_are_taken(tmp_path: Path, comment: str, stated: bool) -> None:
    assert check(with_comment(tmp_path, comment)) == [stated]


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("charge:R:1", "1 0 0", r"atomic charges that sum to 1 \(column charge\)"),
        ("formal_charges:I:1", "1 0 0", "atomic charges that sum to 1"),
        ("q:S:1", "+a 0 0", "column q is not understood"),
        ("initial_magmoms:R:1", "1 -1 0", "magnetic moments up to 1"),
        ("spins:I:1", "1 -1 0", "magnetic moments up to 1"),
        ("occupancy:R:1", "1 0.5 1", r"sites that are partly occupied \(column occupancy\)"),
        ("charge:R:1", "-0.81 0.4 0.4", None),
        ("magmoms:R:1", "0.001 0 0", None),
        ("label:S:1", "a b c", None),
    ],
)
def test_columns(tmp_path: Path, name: str, values: str, message: str | None) -> None:
    path = with_comment(tmp_path, COLUMN.format(name), values)
    if message is None:
        check(path)
        return
    with pytest.raises(DataError, match=rf"w\.xyz, line 2: .*{message}"):
        check(path)


def stated(info: dict[str, Any] | None = None, **results: Any) -> Atoms:
    atoms = molecule("H2O")
    atoms.info |= info or {}
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, **results)
    return atoms


def with_charges(*charges: float) -> Atoms:
    atoms = molecule("H2O")
    atoms.set_initial_charges(charges)
    return atoms


@pytest.mark.parametrize("kind", ["xyz", "traj", "json", "db"])
@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (molecule("O2"), r"moments up to 1 \(column initial_magmoms\)"),
        (with_charges(0.5, 0.5, 0), "atomic charges that sum to 1"),
        (stated(magmom=2.0), "moments up to 2"),
        (stated(magmoms=[0, 1.0, -1.0]), "moments up to 1"),
        (with_charges(-0.8, 0.4, 0.4), None),
        (stated({"charge": 0, "multiplicity": 1}, magmom=0.0, dipole=[0, 0, 1.0]), None),
    ],
)
def test_what_ase_stores(tmp_path: Path, kind: str, atoms: Atoms, message: str | None) -> None:
    path = tmp_path / f"a.{kind}"
    ase.io.write(path, [molecule("H2"), atoms])
    if message is None:
        check(path)
        return
    with pytest.raises(DataError, match=rf"a\.{kind}, (frame 1|line 6): .*{message}"):
        check(path)


def test_other_information_of_trajectories_and_databases(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "a.traj", stated({"total_charge": 1}))
    for name in ("b.db", "b.json"):
        with ase.db.connect(tmp_path / name) as database:
            database.write(molecule("H2O"), net_charge=1)
    with ase.db.connect(tmp_path / "c.db") as database:
        database.write(molecule("H2O"), data={"spin": 2})
    for name, message in (
        ("a.traj", "charge 1"),
        ("b.db", "charge 1"),
        ("b.json", "charge 1"),
        ("c.db", "spin=2"),
    ):
        with pytest.raises(DataError, match=rf"{name}: has {message}"):
            check(tmp_path / name)


def test_crystals_with_charges_or_moments_are_refused(tmp_path: Path) -> None:
    for comment, message in (("charge=1", "has charge 1"), ('magmoms="1 -1"', "moments up to 1")):
        lattice = 'Lattice="2.5 0 0 0 4.3 0 0 0 12"'
        (tmp_path / "c.xyz").write_text(f"2\n{lattice} {comment}\nC 0 0 3\nC 0 1.42 3\n")
        (frame,) = read_frames(tmp_path / "c.xyz")
        with pytest.raises(DataError, match=message):
            check_crystal(frame)


MOLFILE = """water

{comment}
  3  2  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    0.1190 O   0  {code}  0  0  0  0  0  0  0  0  0  0
    0.0000    0.7630   -0.4770 {hydrogen}   0  0  0  0  0  0  0  0  0  0  0  0
    0.0000   -0.7630   -0.4770 H   0  0  0  0  0  0  0  0  0  0  0  0
  1  2  1  0
  1  3  1  0
{more}M  END
"""


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, None),
        ({"code": "3"}, "line 5: has charge 1"),
        ({"code": "5", "more": "M  CHG  2   1  -1   2   1\n"}, None),
        ({"more": "M  CHG  1   1   1\n"}, r"line 10 \(M  CHG\): has charge 1"),
        ({"more": "M  RAD  1   1   3\n"}, "line 10: has unpaired=1"),
        ({"code": "4"}, "line 5: has unpaired=1"),
        ({"hydrogen": "D"}, "line 6: 'D' is deuterium"),
    ],
)
def test_molfiles(tmp_path: Path, changed: dict[str, str], message: str | None) -> None:
    path = tmp_path / "w.mol"
    path.write_text(MOLFILE.format(**({"comment": "", "code": "0", "hydrogen": "H", "more": ""} | changed)))
    if message is None:
        check(path)
        assert read_frames(path)[0].atoms.get_chemical_formula() == "H2O"
        return
    with pytest.raises(DataError, match=rf"w\.mol, {message}"):
        check(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("", "", None),
        (" O  ", " O1+", "has charge 1"),
        ("1.00", "0.50", r"line \d: has occupancy 0.50"),
        (" O  ", " D  ", "'D' is deuterium"),
    ],
)
def test_pdb_files(tmp_path: Path, old: str, new: str, message: str | None) -> None:
    path = tmp_path / "w.pdb"
    ase.io.write(path, molecule("H2O"))
    lines = [line.rstrip("\n").ljust(80) for line in path.read_text().splitlines()]
    at = next(n for n, line in enumerate(lines) if line.startswith("ATOM"))
    lines[at] = lines[at][:54] + lines[at][54:].replace(old, new, 1)
    path.write_text("\n".join(lines) + "\n")
    if message is None:
        assert check(path) == [False]
        return
    with pytest.raises(DataError, match=message):
        check(path)
