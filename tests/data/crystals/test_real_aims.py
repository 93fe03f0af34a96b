"""Calculations of FHI-aims: blocks and bands against reference values."""

import numpy as np
import pytest

from tests.data.crystals.real_runs import FILES, bands, references, standard_blocks
from tracegrad.data.crystal_files.aims import AimsReader
from tracegrad.data.crystal_files.database import CrystalDatabase

RUNS = FILES / "aims"
pytestmark = [
    pytest.mark.skipif(not RUNS.is_dir(), reason="needs files of real runs"),
    pytest.mark.slow,
]


@pytest.mark.parametrize("spin", ["up", "down"])
def test_crystal(spin):
    """Both S were moved into the central cell, and Mo is at its border."""
    structure = CrystalDatabase(RUNS / "MoS2", overlap=True, reader=lambda path: AimsReader(path, spin))[0]
    overlaps, blocks = (standard_blocks(structure, matrix) for matrix in ("overlap", "hamiltonian"))
    channel = int(spin == "down")
    for edge, expected in references(RUNS / "MoS2" / "reference_blocks.npz").items():
        np.testing.assert_allclose(overlaps[edge], expected["S"], rtol=0, atol=1e-12)
        np.testing.assert_allclose(blocks[edge], expected[str(channel)], rtol=0, atol=1e-9)
    with np.load(RUNS / "MoS2" / "reference_bands.npz") as file:
        found = bands(structure, file["kpoints"])
        np.testing.assert_allclose(found, file["eigenvalues_eV"][channel], rtol=0, atol=1e-7)


def test_atom():
    structure = CrystalDatabase(RUNS / "Mo_atom", overlap=True)[0]
    with np.load(RUNS / "Mo_atom" / "reference.npz") as file:
        found = bands(structure, np.zeros((1, 3)))[0]
        np.testing.assert_allclose(found, file["eigenvalues_eV"], rtol=0, atol=1e-8)
