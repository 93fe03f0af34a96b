"""Structures whose positions, lattice, R, units or radii contradict each other, made from real ones."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from tracegrad.data.cache.lookup import build_cache
from tracegrad.data.crystal_files.database import CrystalDatabase
from tracegrad.data.crystal_files.deeph import read_structure, write_structure
from tracegrad.data.crystal_files.packed import pack
from tracegrad.data.crystals.structure import Structure, check_structure
from tracegrad.data.loading.datamodule import database_path
from tracegrad.data.loading.deeph_module import DeepHDataModule
from tracegrad.data.loading.first_look import compare_radii, doubtful_units
from tracegrad.errors import BasisError, DataError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.neighbours import edges_within_range, pair_ranges
from tracegrad.units import ANGSTROM_PER_BOHR, EV_PER_HARTREE

EMBEDDED = database_path("embedded:demo_crystals.h5")
MATERIALS = {
    "light_bilayer_*": ["C5.0-s2p1d1"],
    "light_mos2_*": ["Mo7.0-s3p2d1", "S7.0-s2p1d1"],
    "light_bismuthene_*": ["Bi8.0-s3p2d2"],
}


def structures(pattern: str, count: int = 3) -> list[Structure]:
    database = CrystalDatabase(EMBEDDED, include=pattern)
    return [database[row] for row in range(count)]


@pytest.fixture(scope="module")
def bilayer() -> Structure:
    return structures("light_bilayer_*", 1)[0]


@pytest.fixture(scope="module")
def folder(bilayer, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("bilayer") / "a"
    write_structure(bilayer, place)
    return place


def test_ranges_are_those_of_the_cutoff_that_made_the_pairs():
    random = np.random.default_rng(0)
    for _ in range(10):
        numbers = random.choice([6, 16, 42], 7)
        lattice = random.normal(size=(3, 3)) + 5 * np.eye(3)[random.permutation(3)]
        positions = random.normal(scale=9, size=(7, 3))  # far outside of the cell
        basis = OrbitalBasis.openmx(["C5.0-s1", "S6.0-s1", "Mo7.5-s1"])
        edges = edges_within_range(numbers, positions, lattice, np.ones(3, dtype=bool), basis)
        ranges = pair_ranges(numbers, positions, lattice, edges, search=9.0)
        for pair, found in ranges.items():
            reach = sum(basis.radii[z] for z in pair)
            assert found.longest <= reach <= found.absent
            assert np.isfinite(found.absent)
        lengths = np.linalg.norm(
            positions[edges[:, 4]] + edges[:, :3] @ lattice - positions[edges[:, 3]], axis=1
        )
        gone = int(np.flatnonzero(lengths > 0)[len(lengths) // 3])
        found = pair_ranges(numbers, positions, lattice, np.delete(edges, gone, 0))
        one = found[tuple(sorted(numbers[edges[gone, 3:]].tolist()))]
        assert one.absent == pytest.approx(lengths[gone], abs=1e-12)
        assert one.nearest == tuple(edges[gone].tolist())


@pytest.mark.parametrize("pattern", MATERIALS)
def test_real_structures_fit_their_radii_and_units(pattern):
    found = structures(pattern)
    basis = OrbitalBasis.openmx(MATERIALS[pattern], spinful=found[0].spinful)
    assert compare_radii(found, basis) == (None, False)
    assert doubtful_units(found[0]) is None


def moved(p, lattice):
    p[:, 1] += 3 * lattice[:, 0]
    return p, lattice


CHANGES: list[tuple[Callable, str]] = [
    (moved, "atoms moved by a lattice vector without their R"),
    (lambda p, a: (p, a.T), "with the lattice transposed they agree"),
    (lambda p, a: (p / ANGSTROM_PER_BOHR, a), "with the positions taken for bohr they agree"),
    (lambda p, a: (p, a / ANGSTROM_PER_BOHR), "with the lattice taken for bohr they agree"),
    (lambda p, a: (np.linalg.inv(a) @ p, a), "taken for fractions of the lattice vectors they agree"),
    (lambda p, a: (p[:, ::-1], a), "contradict each other"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_folders_that_contradict_themselves(folder, tmp_path, change, message):
    """The reciprocal lattice belongs to the wrong lattice, so that it does not reveal the error."""
    place = shutil.copytree(folder, tmp_path / "db" / "a")
    positions, lattice = change(np.loadtxt(place / "site_positions.dat"), np.loadtxt(place / "lat.dat"))
    for name, table in {
        "site_positions.dat": positions,
        "lat.dat": lattice,
        "rlat.dat": 2 * np.pi * np.linalg.inv(lattice).T,
    }.items():
        np.savetxt(place / name, table)
    with pytest.raises(DataError, match=message) as caught:
        read_structure(place)
    assert str(caught.value).startswith(f"{place}: ")
    database = CrystalDatabase(tmp_path / "db")
    with pytest.raises(DataError, match=message):
        build_cache(database, tmp_path / "a.cache")
    for _ in range(2):  # it is not let through when it is asked for again
        with pytest.raises(DataError, match=message):
            database[0]


def test_the_sign_of_r(bilayer):
    edges = np.concatenate([-bilayer.edges[:, :3], bilayer.edges[:, 3:]], axis=1)
    with pytest.raises(
        DataError, match=r"here: positions, lattice and .* with the sign of R changed they agree"
    ):
        check_structure(replace(bilayer, edges=edges, hamiltonian=None, overlap=None), "here")


def test_packed_files_that_contradict_themselves(bilayer, tmp_path):
    twisted = replace(bilayer, lattice=np.ascontiguousarray(bilayer.lattice.T))
    with pytest.raises(DataError, match="with the lattice transposed they agree"):
        pack([twisted], tmp_path / "a.h5", decimals=None, provenance={})
    pack([bilayer], tmp_path / "a.h5", decimals=None, provenance={})
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file[bilayer.name]["lattice"][...] = twisted.lattice
    with pytest.raises(DataError, match=rf"a\.h5: {bilayer.name}: .* with the lattice transposed they agree"):
        CrystalDatabase(tmp_path / "a.h5")[0]


@pytest.mark.parametrize("change", [lambda r: r.T, lambda r: r * ANGSTROM_PER_BOHR, lambda r: r[::-1]])
def test_the_reciprocal_lattice(folder, tmp_path, change):
    place = shutil.copytree(folder, tmp_path / "a")
    right = np.loadtxt(place / "rlat.dat")
    np.savetxt(place / "rlat.dat", change(right))
    with pytest.raises(DataError, match=r"a: lat\.dat and rlat\.dat contradict each other"):
        read_structure(place)
    np.savetxt(place / "rlat.dat", right / (2 * np.pi), fmt="%.6f")
    read_structure(place)
    (place / "rlat.dat").unlink()
    read_structure(place)


def module(shells: list[str], **options) -> DeepHDataModule:
    return DeepHDataModule(
        "embedded:demo_crystals.h5",
        OrbitalBasis.openmx(shells),
        include="light_bilayer_*",
        sizes=[6, 2, 2],
        **options,
    )


@pytest.mark.parametrize(
    ("shells", "blocks"),
    [("C9.0-s2p1d1", 1638), ("C5.5-s2p1d1", None), ("C2.0-s2p1d1", None), ("C4.5-s2p1d1", None)],
)
def test_radii_that_the_pairs_contradict(shells, blocks):
    """A training is refused with the radii to set; everything else is warned."""
    data = module([shells])
    message = (
        rf"basis\.shells says {shells}, but the C-C pairs of light_bilayer_\w+ end at 5\.\d\d angstrom .*"
        rf"would have {blocks or ''}\d* blocks where the data have 4\d\d; set 'basis\.shells=\[C5\.0-s2p1d1\]'"
    )
    with pytest.warns(UserWarning, match=message):
        data.setup()
    assert len(data.remarks) == 1
    with pytest.raises(BasisError, match=message):
        data.setup("fit")
    data.setup("test")


def test_correct_radii_and_no_radii_cause_no_warning(recwarn):
    for shells in ("C5.0-s2p1d1", "C-s2p1d1"):
        data = module([shells])
        data.setup("fit")
        assert data.remarks == []
    assert not recwarn.list


def test_radii_of_one_of_two_elements():
    found = structures("light_mos2_*")
    line, sure = compare_radii(found, OrbitalBasis.openmx(["Mo7.0-s3p2d1", "S8.0-s2p1d1"]))
    assert sure
    assert line.endswith("set 'basis.shells=[S7.0-s2p1d1,Mo7.0-s3p2d1]'")


def test_pairs_that_no_radii_explain_are_warned_of(bilayer):
    """One of the longest pairs is missing, as in data of codes that leave out small blocks."""
    lengths = np.linalg.norm(
        bilayer.positions[bilayer.edges[:, 4]]
        + bilayer.edges[:, :3] @ bilayer.lattice
        - bilayer.positions[bilayer.edges[:, 3]],
        axis=1,
    )
    kept = np.abs(lengths - np.sort(lengths)[-20]) > 1e-6
    thinned = replace(bilayer, edges=bilayer.edges[kept], hamiltonian=None)
    line, sure = compare_radii([thinned], OrbitalBasis.openmx(["C5.0-s2p1d1"]))
    assert not sure
    assert line.endswith("correct the radii, or predict from structure folders with overlaps")


@pytest.mark.parametrize("pattern", MATERIALS)
@pytest.mark.parametrize("unit", [EV_PER_HARTREE, EV_PER_HARTREE / 2])
def test_hamiltonians_in_hartree_or_rydberg_are_warned_of(pattern, unit):
    one = structures(pattern, 1)[0]
    line = doubtful_units(replace(one, hamiltonian=one.hamiltonian / unit))
    assert line.startswith(f"the on-site levels of {one.name} lie between -")


def test_hamiltonians_in_mev_are_refused(bilayer):
    with pytest.raises(
        DataError, match=r"here: the lowest on-site level of atom 1 \(C\) is -1.* eV, deeper than"
    ):
        check_structure(replace(bilayer, hamiltonian=1000 * bilayer.hamiltonian), "here")


@pytest.mark.parametrize("pattern", MATERIALS)
def test_structures_in_bohr(pattern):
    """All lengths 1.89 times too large: no contradiction, but no bonds, and other radii. Too small: no crystal."""
    one = structures(pattern, 1)[0]
    large = replace(one, positions=one.positions / ANGSTROM_PER_BOHR, lattice=one.lattice / ANGSTROM_PER_BOHR)
    assert doubtful_units(large).startswith(f"no atom of {one.name} has a neighbour")
    basis = OrbitalBasis.openmx(MATERIALS[pattern], spinful=one.spinful)
    assert "basis.shells says" in compare_radii([large], basis)[0]
    small = replace(one, positions=one.positions * ANGSTROM_PER_BOHR, lattice=one.lattice * ANGSTROM_PER_BOHR)
    with pytest.raises(DataError, match=r"angstrom apart \(at least"):
        check_structure(small, "here")


def test_each_process_compares_a_structure_once(tmp_path, bilayer, monkeypatch):
    write_structure(bilayer, tmp_path / "a")
    database = CrystalDatabase(tmp_path)
    first = database[0]
    monkeypatch.setattr("tracegrad.data.crystals.structure.pair_ranges", None)
    assert np.array_equal(database[0].hamiltonian, first.hamiltonian)
    with pytest.raises(TypeError):
        CrystalDatabase(tmp_path)[0]
