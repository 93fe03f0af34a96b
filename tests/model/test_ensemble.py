"""Mean and spread of several networks."""

import numpy as np
import pytest
import torch

from tests import crystals, molecules
from tests.model.test_network import make_model
from tracegrad.errors import ConfigError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.trained_range import TrainedRange
from tracegrad.model.ensemble import HamiltonianEnsemble, block_spreads, mean_and_spread
from tracegrad.model.network import HamiltonianModel


@pytest.fixture(scope="module")
def members(basis) -> list[HamiltonianModel]:
    made = []
    for seed in range(3):
        torch.manual_seed(seed)
        made.append(make_model(basis, "none"))
    return made


def test_a_molecule(members, basis):
    numbers, positions = molecules.METHANOL
    each = np.stack([member.hamiltonian(numbers, positions).numpy() for member in members])
    ensemble = HamiltonianEnsemble(members)
    mean, spread = ensemble.matrix(numbers, positions)
    np.testing.assert_allclose(mean, each.mean(0), rtol=0, atol=1e-13)
    np.testing.assert_allclose(spread, each.std(0, ddof=1), rtol=0, atol=1e-13)
    np.testing.assert_allclose(ensemble.hamiltonian(numbers, positions), each.mean(0), rtol=0, atol=1e-13)
    assert ensemble.label == "3 networks, QHNet"
    sizes = basis.sizes[numbers]
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    found = block_spreads(spread, sizes)
    for i in range(len(numbers)):
        for j in range(len(numbers)):
            block = spread[bounds[i] : bounds[i + 1], bounds[j] : bounds[j + 1]]
            assert found[i, j] == pytest.approx(block.mean(), rel=1e-12)


def test_one_network_has_no_spread(members):
    ensemble = HamiltonianEnsemble(members[:1])
    mean, spread = ensemble.matrix(*molecules.WATER)
    assert np.array_equal(mean, members[0].hamiltonian(*molecules.WATER).numpy())
    assert not spread.any()
    assert ensemble.label == "QHNet"


def test_blocks_of_a_crystal():
    made = []
    for seed in range(2):
        torch.manual_seed(seed)
        made.append(HamiltonianModel(crystals.SmallBackbone(crystals.SPINFUL)).double())
    numbers, positions, lattice, edges = crystals.ALL[0]
    each = [member.hamiltonian(numbers, positions, lattice, edges) for member in made]
    found = HamiltonianEnsemble(made).hamiltonian(numbers, positions, lattice, edges)
    for block, one, other in zip(found, *each, strict=True):
        np.testing.assert_allclose(block, (one + other) / 2, rtol=0, atol=1e-13)


def test_complex_numbers():
    """The spread does not depend on the phase."""
    generator = np.random.default_rng(0)
    z = generator.normal(size=(4, 5, 5)) + 1j * generator.normal(size=(4, 5, 5))
    mean, spread = mean_and_spread(list(z))
    np.testing.assert_allclose(mean, z.mean(0), atol=1e-14)
    np.testing.assert_allclose(spread, z.std(0, ddof=1), atol=1e-14)
    np.testing.assert_allclose(mean_and_spread(list(1j * z))[1], spread, atol=1e-14)


def test_networks_without_a_common_mean(members, basis):
    fewer = make_model(OrbitalBasis.def2_svp([1, 6, 8]), "none")
    with pytest.raises(ConfigError, match="networks 1 and 3 differ in the shells of the elements"):
        HamiltonianEnsemble([*members[:2], fewer])
    crystal = HamiltonianModel(crystals.SmallBackbone(crystals.SPINLESS)).double()
    with pytest.raises(ConfigError, match="networks 1 and 2 differ in the order of their orbitals"):
        HamiltonianEnsemble([members[0], crystal])
    spinful = HamiltonianModel(crystals.SmallBackbone(crystals.SPINFUL)).double()
    with pytest.raises(ConfigError, match="networks 1 and 2 differ in spin-orbit coupling, False and True"):
        HamiltonianEnsemble([crystal, spinful])
    with pytest.raises(ConfigError, match="at least one network"):
        HamiltonianEnsemble([])


def test_what_is_outside_of_any_training(members, monkeypatch):
    ensemble = HamiltonianEnsemble(members)
    assert ensemble.outside_training(*molecules.WATER) == []  # nothing is known
    near = {(1, 8): ((0.8, 1.2),), (1, 1): ((1.3, 1.7),)}
    for member, atoms in zip(members, (2, 2, 5), strict=True):
        monkeypatch.setattr(member, "trained_range", TrainedRange(atoms, {1: 1.0, 8: 1.0}, near))
    assert ensemble.outside_training(*molecules.WATER) == ["3 atoms; the largest training structure has 2"]
