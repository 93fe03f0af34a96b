import ase.io
import numpy as np
import pytest
from ase import Atoms

from tracegrad.errors import ConfigError, DataError
from tracegrad.physics.crystals.layers import crystal_cell
from tracegrad.physics.crystals.openmx import Openmx
from tracegrad.physics.crystals.settings import CrystalSettings
from tracegrad.physics.crystals.structures import crystal_structures


def made(**values):
    return crystal_structures(CrystalSettings(**values), engine=Openmx())


def test_published_bilayers_go_through_all_shifts():
    structures = made(crystal="BB", supercell=[1, 1])
    assert len(structures) == 576
    shifts = np.array([entry.origin["shift of the upper layer"] for entry in structures])
    assert len(np.unique(shifts, axis=0)) == 576
    np.testing.assert_allclose(24 * shifts, np.rint(24 * shifts))
    assert (shifts.min(), shifts.max()) == (0, 23 / 24)
    assert [structures[0].name, structures[-1].name] == ["BB_000", "BB_575"]
    moved = np.array([entry.displacements for entry in structures])
    assert np.abs(moved).max() <= 0.1
    assert moved.std() == pytest.approx(0.1 / np.sqrt(3), rel=0.05)
    entry = structures[5]
    ideal = crystal_cell(CrystalSettings(crystal="BB").recipe, 19.0, (1, 1), shifts[5].tolist())
    np.testing.assert_allclose(entry.atoms.positions - entry.displacements, ideal.positions)


def test_monolayers_have_normal_displacements():
    structures = made(crystal="MG", structures=20)
    moved = np.array([entry.displacements for entry in structures])
    assert moved.shape == (20, 72, 3)
    assert moved.std() == pytest.approx(0.05, rel=0.05)
    assert "shift of the upper layer" not in structures[0].origin


def test_seeds():
    one, same, other = (made(crystal="BG", structures=2, supercell=[1, 1], seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one[1].atoms.positions, same[1].atoms.positions)
    assert np.abs(one[1].atoms.positions - other[1].atoms.positions).max() > 0.01
    assert not np.allclose(one[0].displacements, one[1].displacements)


def test_random_and_no_shifts():
    shifts = [
        entry.origin["shift of the upper layer"]
        for entry in made(crystal="BG", structures=3, shifts="random")
    ]
    assert len({tuple(shift) for shift in shifts}) == 3
    assert not np.allclose(24 * np.array(shifts), np.rint(24 * np.array(shifts)))
    (entry,) = made(crystal="BG", structures=1, shifts="none", amplitude=0.0, gap=3.5)
    assert entry.origin["shift of the upper layer"] == [0, 0]
    assert np.ptp(entry.atoms.positions[:, 2]) == pytest.approx(3.5)


def test_twisted_structures_are_ideal_unless_told_otherwise():
    structures = made(crystal="BB", twists="published")
    assert [entry.name for entry in structures] == [f"BB_twist_{m + 1}_{m}" for m in (1, 2, 3, 4)]
    assert [len(entry.atoms) for entry in structures] == [28, 76, 148, 244]
    assert all(entry.displacements is None for entry in structures)
    assert structures[0].origin["twist angle (degrees)"] == pytest.approx(21.787, abs=1e-3)
    copies = made(crystal="BG", twists=[[2, 1]], angles=[13.2], structures=2, amplitude=0.1)
    assert [entry.name for entry in copies] == [f"BG_twist_{t}_{n}" for t in ("2_1", "3_2") for n in (0, 1)]
    assert all(0.09 < np.abs(entry.displacements).max() <= 0.1 for entry in copies)


def test_frames_of_a_file(tmp_path):
    frames = [
        Atoms("C2", [[0, 0, 3], [0, 1.42 + 0.01 * n, 3]], cell=[2.5, 4.3, 12], pbc=True) for n in range(11)
    ]
    ase.io.write(tmp_path / "md.extxyz", frames)
    structures = crystal_structures(CrystalSettings(), [tmp_path / "md.extxyz"])
    assert [entry.name for entry in structures] == [f"md_{n:02}" for n in range(11)]
    np.testing.assert_allclose(structures[3].atoms.positions, frames[3].positions, atol=1e-8)
    assert structures[3].origin == {"file": "md.extxyz", "frame": 3}

    ase.io.write(tmp_path / "molecule.xyz", Atoms("C2", [[0, 0, 0], [0, 0, 1.4]]))
    ase.io.write(tmp_path / "water.extxyz", Atoms("O", cell=[9, 9, 9], pbc=True))
    ase.io.write(tmp_path / "box.xyz", Atoms("C", cell=[9, 9, 9]))
    charged = frames[0].copy()
    charged.info["charge"] = 1
    ase.io.write(tmp_path / "charged.xyz", charged)
    (tmp_path / "damaged.extxyz").write_text("many\n")
    for name, error, message in (
        ("molecule.xyz", DataError, r"molecule\.xyz: the cell has 0 vectors; give three"),
        (
            "box.xyz",
            DataError,
            r'box\.xyz: has a cell, but is not periodic \(pbc="F F F"\); write pbc="T T T"',
        ),
        ("charged.xyz", DataError, r"charged\.xyz, line 2: has charge 1"),
        ("water.extxyz", ConfigError, "water: no basis and pseudopotential for O"),
        ("damaged.extxyz", DataError, r"damaged\.extxyz, line 1: 'many' is no number of atoms"),
        ("none.extxyz", DataError, "no such file"),
    ):
        with pytest.raises(error, match=message):
            crystal_structures(CrystalSettings(), [tmp_path / name], Openmx())
    with pytest.raises(ConfigError, match="two structures would be called md_00"):
        crystal_structures(CrystalSettings(), [tmp_path / "md.extxyz"] * 2)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"crystal": "graphene"}, r"crystal=graphene is unknown; it is one of MG \(monolayer graphene\)"),
        ({}, "nothing to compute: give crystal or geometries"),
        ({"crystal": "MG", "twists": "published"}, "no twisted structures of monolayer graphene"),
        ({"crystal": "MG", "twists": [[2, 1]]}, "monolayer graphene has one layer"),
        ({"crystal": "BG", "twists": [2, 1]}, r"twists=\[2, 1\] is not understood"),
        (
            {"crystal": "BG", "angles": [1.0], "most_atoms": 400},
            "no commensurate twist within 0.1 of 1 degrees",
        ),
        ({"crystal": "BG", "structures": 0}, "structures=0 has to be at least 1"),
        ({"crystal": "BG", "supercell": [3]}, r"supercell=\[3\] has to be two"),
        ({"crystal": "BG", "shifts": "all"}, "shifts=all is unknown"),
        ({"crystal": "BG", "disturbance": "thermal"}, "disturbance=thermal is unknown"),
        ({"crystal": "BG", "amplitude": -0.1}, "amplitude=-0.1 has to be a length"),
        (
            {"crystal": "BG", "structures": 1, "gap": 0.1, "shifts": "none"},
            r"atoms \d+ and \d+ .* angstrom apart",
        ),
        (
            {"crystal": "BG", "structures": 1, "height": 8.0, "amplitude": 0.0},
            r"BG_0: 4\.65 angstrom are empty .* reach 6\.35; give a height of at least 9\.7",
        ),
    ],
)
def test_what_cannot_be_made_is_named(changed, message):
    with pytest.raises(ConfigError, match=message):
        made(**changed)
