"""Readers of basis files against the functions that were written, and their errors."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.physics.overlaps.gaussian_files import GaussianShell, write_ion_xml, write_orb, write_pao
from tracegrad.errors import BasisError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.physics.overlaps.basis_files import read_basis_file, read_basis_folder

SHELLS = [GaussianShell(0, 0.8), GaussianShell(0, 1.7), GaussianShell(1, 1.1), GaussianShell(2, 0.9)]
WRITERS = {"pao": write_pao, "orb": write_orb, "xml": write_ion_xml}


@pytest.mark.parametrize("format", WRITERS)
def test_values(format: str, tmp_path: Path) -> None:
    shells = read_basis_file(WRITERS[format](tmp_path, "Si", SHELLS)).select((0, 0, 1, 2))
    assert shells.number == 14
    assert shells.degrees == (0, 0, 1, 2)
    assert shells.cutoff == pytest.approx(7.0, abs=1e-12)
    assert shells.radius == pytest.approx(7.0 * 0.529177249, abs=1e-12)
    r = np.linspace(0.01, 6.99, 331)  # below the first point of its mesh OpenMX takes R as constant
    for read, written in zip(shells.shells, SHELLS, strict=True):
        # OpenMX's slopes have an error of second order in the step of the mesh.
        np.testing.assert_allclose(read(r), written(r), rtol=0, atol=2e-6 if format == "pao" else 1e-8)
        assert read.norm == pytest.approx(1.0, abs=1e-7)
        assert (read(np.array([7.01, 20.0])) == 0).all()


def test_openmx_takes_the_first_functions_and_the_other_codes_all(tmp_path: Path) -> None:
    pao = read_basis_file(write_pao(tmp_path, "C", SHELLS, points=300))
    assert pao.degrees == (0, 0, 1, 1, 2, 2)
    assert pao.select((0, 1)).degrees == (0, 1)
    assert pao.select((0, 1)).shells[1] is pao.shells[2]
    with pytest.raises(BasisError, match=r"has the shells s2p2d2 of C, but s3p1 are needed; take"):
        pao.select((0, 0, 0, 1))
    orb = read_basis_file(write_orb(tmp_path, "C", SHELLS, step=0.1))
    with pytest.raises(BasisError, match=r"has the shells s2p1d1 of C, but s1p1 are needed"):
        orb.select((0, 1))


def test_fortran_numbers(tmp_path: Path) -> None:
    path = write_ion_xml(tmp_path, "C", [GaussianShell(0, 4.0)], points=101)
    text = path.read_text()
    row = text.split("</data>")[0].split("\n")[-6].split()[1]  # of the order of 1e-80
    path.write_text(text.replace(row, "1.5-103").replace("7.000000000000 </cutoff>", "0.7D+01 </cutoff>"))
    assert read_basis_file(path).cutoff == 7.0


def replace(pattern: str, new: str, count: int = 1) -> Callable[[str], str]:
    def damage(text: str) -> str:
        changed = re.sub(pattern, new, text, count=count, flags=re.MULTILINE)
        assert changed != text
        return changed

    return damage


DAMAGES: dict[str, list[tuple[Callable[[str], str], str]]] = {
    "pao": [
        (replace("AtomSpecies +6", "AtomSpecies six"), r"line 2: AtomSpecies is 'six', but a whole number"),
        (replace("^PAO.Mul.*$", ""), r"has no PAO.Mul; give a .pao file of OpenMX"),
        (replace("pao   7.0", "pao   9.0"), r"line 3: radial.cutoff.pao is 9.0, but the mesh ends at 8.4"),
        (replace("^pseudo.*=1>$", ""), r"has no complete block <pseudo.atomic.orbitals.L=1"),
        (replace(r"(L=0\n.*\n *\S+ +)\S+ ", r"\1nan "), r"line 8: 'nan' is not a finite number"),
        (replace(r"(L=0\n.*\n *\S+ +)\S+ ", r"\1x "), r"line 8: 'x' is not a number"),
        (replace(r"(L=0\n.*\n *\S+ +)\S+ ", r"\1 "), r"line 8: 3 numbers, but ln r, r and 2 functions"),
        (replace(r"(L=0\n.*\n *\S+ +)\S+ ", r"\1 1e-9 "), r"line 8: r = 1e-9 does not ascend"),
    ],
    "orb": [
        (replace("Element +C", "Element  Qq"), r"line 2: 'Qq' is no element"),
        (replace("^Mesh.*$", ""), r"has no Mesh; give an .orb file of ABACUS"),
        (replace("^Mesh.*$", "Mesh 90"), r"90 points with dr = 0.1 bohr do not end at the cutoff of 7 bohr"),
        (replace("Dorbital", "Gorbital"), r"has no line 'Number of Dorbital-->'"),
        (replace("Sorbital--> +2", "Sorbital--> 1"), r"line \d+: 'Type L N' and '0 1 0' are expected"),
        (replace("Dorbital--> +1", "Dorbital--> 2"), r"the file ends in function 2 with l = 2"),
        (replace("Dorbital--> +1", "Dorbital--> 0"), r"line \d+: 'Type' follows the last function"),
        (replace("e-01", "e-zz"), r"line 14 and below: '\S+e-zz' is not a number"),
        (replace("Type", "Tipe", count=9), r"has no line 'Type L N'"),
    ],
    "xml": [
        (replace("<z> 6", "<z> 600"), r"line 3: <z> is '600', but a whole number from 1 to 118"),
        (replace("<z> 6 </z>", ""), r"has no <z>, the atomic number"),
        (replace("^<ion", '<!DOCTYPE ion [<!ENTITY a "b">]>\n<ion'), r"line 1: a document type"),
        (replace('l=" +1"', 'l="p"'), r"line \d+: l of the orbital is 'p'"),
        (replace("<npts> 71 </npts>", ""), r"line \d+: the orbital has no <npts>"),
        (replace("<npts> 71 <", "<npts> 72 <"), r"<data> has 142 numbers, but 72 rows of two are needed"),
        (replace("<cutoff> 7", "<cutoff> 8"), r"does not ascend from 0 to the cutoff of 8 bohr"),
        (replace("e-02", "e-zz", count=3), r"<data> from .*line \d+: '\S+e-zz' is not a number"),
        (replace("</paos>", "</pao>"), r"line \d+: mismatched tag"),
        (replace("<paos>", "<paos/><rest>"), r"mismatched tag"),
    ],
}


@pytest.mark.parametrize(
    ("format", "damage", "message"),
    [(format, *case) for format, cases in DAMAGES.items() for case in cases],
)
def test_damaged_files(format: str, damage: Callable[[str], str], message: str, tmp_path: Path) -> None:
    fewer = {"pao": {"points": 60}, "orb": {"step": 0.1}, "xml": {"points": 71}}[format]
    path = WRITERS[format](tmp_path, "C", SHELLS, **fewer)
    path.write_text(damage(path.read_text()))
    with pytest.raises(BasisError, match=message) as raised:
        read_basis_file(path)
    assert str(path) in str(raised.value)


def test_names(tmp_path: Path) -> None:
    with pytest.raises(BasisError, match=r"x.txt: is no basis file; give one of OpenMX \(.pao\)"):
        read_basis_file(tmp_path / "x.txt")
    with pytest.raises(BasisError, match=r"C9.pao: cannot be read \(No such file"):
        read_basis_file(tmp_path / "C9.pao")


def test_a_far_norm_is_refused(tmp_path: Path) -> None:
    class Doubled(GaussianShell):
        def __call__(self, r: np.ndarray) -> np.ndarray:
            return 2 * super().__call__(r)

    path = write_orb(tmp_path, "C", [GaussianShell(0, 1.0), Doubled(0, 1.0)], step=0.1)
    with pytest.raises(BasisError, match=r"shell 2 with l = 0 has the norm 4, and orbitals have 1"):
        read_basis_file(path)


def test_folder(tmp_path: Path) -> None:
    basis = OrbitalBasis.openmx(["C6.0-s1p1", "Si7.0-s2p1d1"])
    for cutoff in (5.0, 6.0):
        write_pao(tmp_path, "C", SHELLS, cutoff=cutoff, points=300)
    write_pao(tmp_path, "Ca", SHELLS, points=300)
    write_pao(tmp_path, "Si", SHELLS, points=300)
    (tmp_path / "Si.vps").write_text("a pseudopotential")
    shells = read_basis_folder(tmp_path, basis, [14, 6, 6])
    assert {z: (one.degrees, one.cutoff) for z, one in shells.items()} == {
        6: ((0, 1), 6.0),
        14: ((0, 0, 1, 2), 7.0),
    }
    with pytest.raises(
        BasisError, match=r"orbitals of C end at 2.646, 3.175 angstrom.*, but at 3.704 in the basis"
    ):
        read_basis_folder(tmp_path, OrbitalBasis.openmx(["C7.0-s1"]), [6])
    with pytest.raises(BasisError, match=r"C5.0.pao, C6.0.pao are all of C; leave the one"):
        read_basis_folder(tmp_path, OrbitalBasis.openmx(["C-s1"]), [6])
    with pytest.raises(BasisError, match=r"has no basis file of H \(H\*.pao, H\*.orb or H\*.ion.xml\)"):
        read_basis_folder(tmp_path, OrbitalBasis.openmx(["H5.0-s1"]), [1])
    with pytest.raises(BasisError, match=r"nowhere: cannot be read"):
        read_basis_folder(tmp_path / "nowhere", basis, [6])
