"""Valence electrons from basis files and from the user."""

import numpy as np
import pytest

from tests.physics.overlaps.gaussian_files import GaussianShell, write_ion_xml, write_orb, write_pao
from tracegrad.errors import BasisError, ConfigError, DataError
from tracegrad.physics.dos.electrons import charges_in_files, electrons_of_atoms, read_charges
from tracegrad.physics.overlaps.basis_files import read_basis_file

SHELLS = [GaussianShell(0, 1.0)]


def test_charges_of_basis_files(tmp_path):
    with_charge = read_basis_file(write_pao(tmp_path, "C", SHELLS, points=300, valence="4.0"))
    assert with_charge.select([0]).valence == 4.0
    assert read_basis_file(write_ion_xml(tmp_path, "Bi", SHELLS, valence="15.0")).valence == 15.0
    without = read_basis_file(write_orb(tmp_path, "Si", SHELLS))
    assert without.valence is None
    assert charges_in_files({6: with_charge, 14: without}) == {6: 4.0}
    assert read_basis_file(write_pao(tmp_path, "H", SHELLS, points=300)).valence is None


@pytest.mark.parametrize("writer", [write_pao, write_ion_xml])
@pytest.mark.parametrize("charge", ["many", "-4", "0", "900"])
def test_damaged_charges(tmp_path, writer, charge):
    path = writer(tmp_path, "C", SHELLS, points=300, valence=charge)
    with pytest.raises(BasisError, match=rf"{path}, line \d+: .*{charge}.*; take an undamaged file"):
        read_basis_file(path)


def test_electrons():
    numbers = np.array([42, 16, 16])
    assert electrons_of_atoms(numbers, {42: 14.0, 16: 6.0}, "MoS2") == 26
    with pytest.raises(
        DataError,
        match=r"MoS2: the valence electrons of S are not known, .* give 'valence=\{S: NUMBER\}' or electrons=NUMBER",
    ):
        electrons_of_atoms(numbers, {42: 14.0}, "MoS2")


def test_charges_of_the_user():
    assert read_charges({"C": 4, "Bi": 15.0}) == {6: 4.0, 83: 15.0}
    for table, message in (
        ([4], "valence=\\[4\\] is not a table"),
        ({"Xx": 4}, "valence: 'Xx' is no element"),
        ({6: 4}, "valence: 6 is no element"),
        ({"C": "four"}, "valence: C has 'four' electrons; give a number above 0"),
        ({"C": 0}, "valence: C has 0 electrons"),
        ({"C": float("nan")}, "valence: C has nan electrons"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_charges(table)
