"""Molden and cube files, read back."""

from pathlib import Path

import numpy as np
import pytest
from pyscf.tools import molden

from tests import molecules
from tracegrad.errors import ConfigError
from tracegrad.physics.molecules.dft import build_molecule, fock_label
from tracegrad.physics.molecules.levels import molecular_levels
from tracegrad.physics.molecules.orbital_files import orbital_index, write_cube, write_molden
from tracegrad.units import ANGSTROM_PER_BOHR

NUMBERS, POSITIONS = molecules.WATER


@pytest.fixture(scope="module")
def solved():
    molecule = build_molecule(NUMBERS, POSITIONS)
    h = fock_label(NUMBERS, POSITIONS, "b3lyp").hamiltonian
    return molecule, molecular_levels(h, molecule.intor("int1e_ovlp"), 10)


def test_molden(solved, tmp_path: Path):
    molecule, levels = solved
    write_molden(molecule, levels, tmp_path / "water.molden")
    again, energies, coefficients, occupations, _, _ = molden.load(str(tmp_path / "water.molden"))
    np.testing.assert_allclose(energies, levels.energies, atol=1e-6)
    assert occupations.sum() == 10
    np.testing.assert_allclose(again.atom_coords(), molecule.atom_coords(), atol=1e-5)
    overlap = again.intor("int1e_ovlp")  # the coefficients belong to the basis of the file
    np.testing.assert_allclose(coefficients.T @ overlap @ coefficients, np.eye(24), atol=1e-5)


def read_cube(path: Path) -> tuple[np.ndarray, float]:
    """Values and the volume of a cell of the grid (bohr^3)."""
    lines = path.read_text().splitlines()
    atoms = int(lines[2].split()[0])
    grid = np.array([line.split() for line in lines[3:6]], dtype=float)
    values = np.array(" ".join(lines[6 + atoms :]).split(), dtype=float)
    assert len(values) == grid[:, 0].prod()
    return values, float(abs(np.linalg.det(grid[:, 1:])))


def test_cubes(solved, tmp_path: Path):
    molecule, levels = solved
    for name, expected, tolerance in (("density", 10, 0.3), ("HOMO", 1, 0.02), ("LUMO+1", 1, 0.1)):
        path = tmp_path / f"{name}.cube"
        write_cube(molecule, levels, name, path, spacing=0.2)
        values, volume = read_cube(path)
        assert volume == pytest.approx((0.2 / ANGSTROM_PER_BOHR) ** 3, rel=0.2)
        total = values.sum() if name == "density" else (values**2).sum()
        assert total * volume == pytest.approx(expected, abs=tolerance)


def test_names(solved, tmp_path: Path):
    _, levels = solved
    assert [orbital_index(levels, name) for name in ("HOMO", "HOMO-4", "LUMO", "LUMO+3")] == [4, 0, 5, 8]
    for name, message in (
        ("SOMO", "no orbital is called 'SOMO'"),
        ("HOMO-5", "has no HOMO-5"),
        ("LUMO+19", "24 orbitals"),
    ):
        with pytest.raises(ConfigError, match=message):
            orbital_index(levels, name)
    with pytest.raises(ConfigError, match="spacing of cubes is 0"):
        write_cube(*solved, "HOMO", tmp_path / "a.cube", spacing=0.0)
    assert not list(tmp_path.iterdir())
