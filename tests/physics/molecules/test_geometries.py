import re

import ase.io
import numpy as np
import pytest
from ase.build import molecule
from scipy.spatial.distance import pdist

from tracegrad.errors import DataError, GenerationError
from tracegrad.physics.molecules.geometries import disturbed, fingerprint, named_molecules, read_geometries

TWO_FRAMES = "2\nfirst\nH 0 0 0\nF 0 0 0.92\n2\nsecond\nH 0 0 0\nF 0 0 0.95\n"


def test_named_molecules_come_in_the_order_of_the_names():
    assert [g.formula for g in named_molecules(["NH3", "H2O", "2-butyne"])] == ["H3N", "H2O", "C4H6"]


def test_an_unknown_name_is_answered_with_the_nearest_ones():
    with pytest.raises(DataError, match=r"'ch3oh' is not in the G2 collection of ASE; nearest: CH3OH"):
        named_molecules(["H2O", "ch3oh"])


@pytest.mark.parametrize("name", ["O2", "CH3"])
def test_open_shells_are_refused(name):
    with pytest.raises(GenerationError, match=f"^{name} is an open-shell"):
        named_molecules([name])


def test_all_frames_of_a_file_are_read(tmp_path):
    path = tmp_path / "hf.xyz"
    path.write_text(TWO_FRAMES)
    first, second = read_geometries([path])
    assert (first.name, second.name, second.molecule) == ("hf#0", "hf#1", "hf")
    assert second.positions[1, 2] == 0.95
    assert second.numbers.tolist() == [1, 9]


def test_frames_after_an_empty_line_and_of_other_formats_are_read(tmp_path):
    (tmp_path / "hf.xyz").write_text(TWO_FRAMES.replace("2\nsecond", "\n\n2\nsecond"))
    ase.io.write(tmp_path / "md.traj", [molecule("H2O")] * 3)
    names = [geometry.name for geometry in read_geometries([tmp_path / "hf.xyz", tmp_path / "md.traj"])]
    assert names == ["hf#0", "hf#1", "md#0", "md#1", "md#2"]


def test_moments_in_a_file_are_refused(tmp_path):
    ase.io.write(tmp_path / "o2.xyz", molecule("O2"))
    with pytest.raises(
        DataError, match=r"o2\.xyz, line 2: has magnetic moments up to 1 \(column initial_magmoms\)"
    ):
        read_geometries([tmp_path / "o2.xyz"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xyz, line 1", "two\natoms\n", "'two' is no number of atoms"),
        ("a.xyz", "", "holds no atoms"),
        ("a.log", "", r"the name tells the format of a geometry, and this is none of \.xyz"),
        ("a.xyz", '1\nLattice="5 0 0 0 5 0 0 0 5" pbc="T T T"\nO 0 0 0\n', "periodic"),
        ("a.xyz", "2\n\nO 0 0 0\nH 0 0 1\n", "9 electrons"),
        ("a.xyz", "1\n\nAg 0 0 0\n", "element Ag"),
        ("a.xyz, line 2", "2\ncharge=2\nH 0 0 0\nF 0 0 1\n", "has charge 2 .*neutral closed shells only"),
        ("a.xyz, line 2", "2\nmultiplicity=3\nO 0 0 0\nO 0 0 1.2\n", "has multiplicity=3"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, message):
    path = tmp_path / name.split(",")[0]
    path.write_text(content)
    with pytest.raises((DataError, GenerationError), match=f"^.*{re.escape(name)}: .*({message})"):
        read_geometries([path])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.xyz: no such file"):
        read_geometries([tmp_path / "gone.xyz"])


def test_copies_are_rotated_and_displaced_by_the_seed():
    water = named_molecules(["H2O"])
    assert disturbed(water, [], 1, 0) == water
    copies = disturbed(water, [0.0, 0.05], 2, 7)
    assert len(copies) == 4
    assert len({copy.name for copy in copies}) == 4
    for turned in copies[:2]:
        assert np.abs(turned.positions - water[0].positions).max() > 0.1
        np.testing.assert_allclose(pdist(turned.positions), pdist(water[0].positions), atol=1e-12)
    for rattled in copies[2:]:
        assert 1e-3 < np.abs(pdist(rattled.positions) - pdist(water[0].positions)).max() < 0.4
    assert fingerprint(copies) == fingerprint(disturbed(water, [0.0, 0.05], 2, 7))
    assert fingerprint(copies) != fingerprint(disturbed(water, [0.0, 0.05], 2, 8))
