"""The density of states of a molecule: shares by loops over orbitals, integrals, and electrons."""

import numpy as np
import pytest
import scipy.linalg

from tests.molecules import METHANOL
from tracegrad.errors import ConfigError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.physics.dos.molecular import group_electrons, level_shares, molecular_density
from tracegrad.physics.dos.orbital_groups import orbital_groups
from tracegrad.physics.molecules.dft import build_molecule
from tracegrad.physics.molecules.energies import loewdin_charges, mulliken_charges
from tracegrad.physics.molecules.levels import MolecularLevels, molecular_levels
from tracegrad.units import MEV

NUMBERS = METHANOL[0]
MOLECULE = build_molecule(*METHANOL)
OVERLAP = MOLECULE.intor_symmetric("int1e_ovlp")
CORE = MOLECULE.intor_symmetric("int1e_kin") + MOLECULE.intor_symmetric("int1e_nuc")
BASIS = OrbitalBasis.def2_svp()
EV = MEV["hartree"] / MEV["eV"]


@pytest.fixture(scope="module")
def levels() -> MolecularLevels:
    return molecular_levels(CORE, OVERLAP, MOLECULE.nelectron)


def test_shells_are_those_of_pyscf() -> None:
    groups = orbital_groups(NUMBERS, BASIS, "shell")
    names = [groups.names[n] for n in groups.of_orbital]
    # Labels such as (0, 'C', '2p', 'x').
    assert names == [f"{symbol} {shell[-1]}" for _, symbol, shell, _ in MOLECULE.ao_labels(fmt=None)]


@pytest.mark.parametrize("kind", ["mulliken", "loewdin"])
def test_shares_by_loops(levels: MolecularLevels, kind: str) -> None:
    groups = orbital_groups(NUMBERS, BASIS, "shell")
    found = level_shares(levels.coefficients, OVERLAP, groups, kind)
    root = scipy.linalg.sqrtm(OVERLAP)
    expected = np.zeros_like(found)
    for level, c in enumerate(levels.coefficients.T):
        for mu, group in enumerate(groups.of_orbital):
            if kind == "mulliken":
                expected[group, level] += sum(c[mu] * OVERLAP[mu, nu] * c[nu] for nu in range(len(c)))
            else:
                expected[group, level] += sum(root[mu, nu] * c[nu] for nu in range(len(c))) ** 2
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-12)
    assert (found.min() < -1e-3) == (kind == "mulliken")


@pytest.mark.parametrize(("kind", "charges"), [("mulliken", mulliken_charges), ("loewdin", loewdin_charges)])
def test_electrons_of_an_atom_are_those_of_its_charge(levels: MolecularLevels, kind: str, charges) -> None:
    groups = orbital_groups(NUMBERS, BASIS, {"oxygen": [2]})
    shares = level_shares(levels.coefficients, OVERLAP, groups, kind)
    found = dict(zip(groups.names, group_electrons(levels, shares), strict=True))
    occupied = levels.coefficients[:, : levels.occupied]
    expected = 8 - charges(MOLECULE, 2 * occupied @ occupied.T, OVERLAP)[1]
    assert found["oxygen"] == pytest.approx(expected, abs=1e-10)
    assert found["oxygen"] + found["rest"] == pytest.approx(MOLECULE.nelectron, abs=1e-10)


def test_each_level_is_two_electrons(levels: MolecularLevels) -> None:
    """The integral over all energies, and one Gaussian in closed form."""
    groups = orbital_groups(NUMBERS, BASIS, "element")
    shares = level_shares(levels.coefficients, OVERLAP, groups)
    lowest, highest = levels.energies[0] * EV, levels.energies[-1] * EV
    grid = np.linspace(lowest - 20, highest + 20, 6001)
    found = molecular_density(levels, shares, groups, grid, 2.0)
    assert np.trapezoid(found.total, grid) == pytest.approx(2 * len(levels.energies), abs=1e-8)
    np.testing.assert_allclose(np.trapezoid(found.projected, grid), 2 * shares.sum(1), atol=1e-8)
    assert found.below[-1] == pytest.approx(2 * len(levels.energies))
    gap = (levels.homo + levels.lumo) / 2 * EV
    narrow = molecular_density(levels, shares, groups, np.array([lowest, gap]), 0.01)
    assert narrow.total[0] == pytest.approx(2 / (0.01 * (2 * np.pi) ** 0.5))
    assert narrow.below == pytest.approx([1, MOLECULE.nelectron])


def test_other_shares_are_refused(levels: MolecularLevels) -> None:
    groups = orbital_groups(NUMBERS, BASIS, "element")
    with pytest.raises(ConfigError, match="dos_shares=becke is not one of mulliken, loewdin"):
        level_shares(levels.coefficients, OVERLAP, groups, "becke")
