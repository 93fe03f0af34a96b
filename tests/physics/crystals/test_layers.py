import numpy as np
import pytest
from ase.neighborlist import neighbor_list

from tracegrad.physics.crystals.layers import CRYSTALS, crystal_cell

# Atoms of the published supercells (Table 4), and neighbours of an atom with their distances.
TABLE = {"MG": 72, "MM": 75, "BG": 64, "BB": 36, "BT": 90, "BS": 90}
BONDS = {
    "MG": ("C", "C", 1.420, 3),
    "MM": ("Mo", "S", 2.404, 6),
    "BG": ("C", "C", 1.420, 3),
    "BB": ("Bi", "Bi", 3.054, 3),
    "BT": ("Bi", "Te", 3.071, 3),
    "BS": ("Bi", "Se", 2.851, 3),
}


@pytest.mark.parametrize("name", CRYSTALS)
def test_published_supercells(name):
    crystal = CRYSTALS[name]
    cell = crystal_cell(crystal, crystal.height, crystal.supercell)
    assert len(cell) == TABLE[name]
    assert len(cell) == crystal.layers * crystal.layer.atoms_per_cell * np.prod(crystal.supercell)
    assert np.unique(cell.get_array("layer")).tolist() == list(range(crystal.layers))
    np.testing.assert_allclose(cell.cell.angles(), [90, 90, 60])
    np.testing.assert_allclose(cell.cell.lengths()[2], crystal.height)
    z = cell.positions[:, 2]
    np.testing.assert_allclose([np.ptp(z), (z.max() + z.min()) / 2], [crystal.thickness, crystal.height / 2])


@pytest.mark.parametrize("name", CRYSTALS)
def test_bonds(name):
    one, other, length, count = BONDS[name]
    crystal = CRYSTALS[name]
    cell = crystal_cell(crystal, crystal.height)
    i, j, distances = neighbor_list("ijd", cell, 3.2)
    chosen = (np.array(cell.symbols)[i] == one) & (np.array(cell.symbols)[j] == other)
    atoms = np.array(cell.symbols) == one
    nearest = np.abs(distances - length) < 1e-3
    np.testing.assert_array_equal(np.bincount(i[chosen & nearest], minlength=len(cell))[atoms], count)
    assert (distances[chosen] > length - 1e-3).all()


def test_quintuple_layers_have_the_geometry_of_the_bulk():
    """Bi2Te3: 3.25 angstrom from Bi to the inner Te, planes 1.74 and 2.03 apart, 2.62 between layers."""
    crystal = CRYSTALS["BT"]
    assert crystal.layer.symbols == ("Te", "Bi", "Te", "Bi", "Te")
    np.testing.assert_allclose(np.diff(crystal.layer.heights), [1.738, 2.033, 2.033, 1.738], atol=2e-3)
    assert crystal.gap == pytest.approx(2.625, abs=1e-3)
    cell = crystal_cell(crystal, crystal.height)
    assert cell.get_distance(1, 2, mic=True) == pytest.approx(3.247, abs=1e-3)


def test_the_upper_layer_is_shifted():
    crystal = CRYSTALS["BG"]
    cell = crystal_cell(crystal, 18.0, (1, 1), (1 / 3, 1 / 3))
    lower, upper = (cell[cell.get_array("layer") == n] for n in (0, 1))
    np.testing.assert_allclose(upper.positions[:, 2] - lower.positions[:, 2], 3.35)
    fractions = np.sort(upper.get_scaled_positions()[:, :2] % (1 - 1e-9), axis=0)
    np.testing.assert_allclose(fractions, [[0, 0], [2 / 3, 2 / 3]], atol=1e-8)  # AB stacking
    aa = crystal_cell(crystal, 18.0)
    np.testing.assert_allclose(aa.positions[2:, :2], aa.positions[:2, :2])
