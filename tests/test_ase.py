"""The ASE calculator of a network that knows one molecule, and what it refuses."""

import warnings

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.optimize import BFGS
from ase.units import Bohr, Hartree

from tests import crystals, molecules
from tests.model.test_network import make_model
from tracegrad.ase import HamiltonianCalculator
from tracegrad.errors import BasisError, ConfigError, DataError, GenerationError
from tracegrad.hamiltonian.trained_range import OutsideTrainingWarning, TrainedRange
from tracegrad.model.ensemble import HamiltonianEnsemble
from tracegrad.model.network import HamiltonianModel
from tracegrad.physics.molecules.dft import fock_label
from tracegrad.physics.molecules.h0 import molecule_h0

WATER = Atoms(molecules.WATER[0], molecules.WATER[1])


class Converged(HamiltonianModel):
    """Predicts the converged Hamiltonian of any molecule."""

    def hamiltonian(self, numbers, positions, lattice=None, edges=None):
        label = fock_label(numbers, positions, "b3lyp", conv_tol=1e-12)
        return torch.tensor(label.hamiltonian)


@pytest.fixture(scope="module")
def converged(basis) -> HamiltonianModel:
    model = make_model(basis)
    model.__class__ = Converged
    return model


def test_a_perfect_network_gives_the_results_of_dft(converged):
    atoms = WATER.copy()
    atoms.calc = HamiltonianCalculator(converged, "b3lyp")
    label = fock_label(WATER.numbers, WATER.positions, "b3lyp", conv_tol=1e-12, with_forces=True)
    assert atoms.get_potential_energy() == pytest.approx(label.energy * Hartree, abs=1e-7)
    np.testing.assert_allclose(atoms.get_forces(), label.forces * Hartree / Bohr, atol=1e-4)
    assert np.linalg.norm(atoms.get_dipole_moment()) == pytest.approx(0.42, abs=0.05)  # 2.0 debye
    assert atoms.get_charges()[0] < -0.1
    assert atoms.calc.results["loewdin_charges"].sum() == pytest.approx(0, abs=1e-8)
    homo, lumo, gap = (atoms.calc.results[name] for name in ("homo", "lumo", "gap"))
    assert homo < 0
    assert gap == pytest.approx(lumo - homo)


@pytest.mark.slow
def test_a_geometry_is_optimised(converged):
    atoms = WATER.copy()
    atoms.calc = HamiltonianCalculator(converged, "b3lyp")
    BFGS(atoms, logfile=None).run(fmax=0.02, steps=30)
    assert atoms.get_distance(0, 1) == pytest.approx(0.97, abs=0.01)
    assert atoms.get_angle(1, 0, 2) == pytest.approx(103, abs=2)


def test_several_networks_and_a_warning(converged, basis):
    """Mean and spread of H; what is outside of the training is said once."""

    class Shifted(Converged):
        def hamiltonian(self, numbers, positions, lattice=None, edges=None):
            h = super().hamiltonian(numbers, positions, lattice, edges)
            return h + 0.01 * torch.eye(len(h), dtype=h.dtype)

    shifted = make_model(basis)
    shifted.__class__ = Shifted
    shifted.trained_range = TrainedRange(3, {1: 1.0, 8: 1.0}, {(1, 8): ((0.9, 1.0),), (1, 1): ((1.5, 1.6),)})
    atoms = WATER.copy()
    atoms.calc = HamiltonianCalculator(HamiltonianEnsemble([converged, shifted]), "b3lyp")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        atoms.get_potential_energy()
    # The standard deviation of 0 and 0.01 on the diagonal of 24 orbitals.
    assert atoms.calc.results["spread"] == pytest.approx(0.01 / 2**0.5 / 24 * Hartree, rel=1e-9)
    atoms.set_distance(0, 1, 1.4, fix=0)
    with pytest.warns(OutsideTrainingWarning, match=r"H-O at 1\.40 angstrom \(atoms 1 and 2\)"):
        atoms.get_potential_energy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        atoms.set_distance(0, 1, 1.5, fix=0)
        atoms.get_potential_energy()


def test_steps_come_closer_to_the_scf(basis):
    """A network that predicts the guess of minimal atomic orbitals."""

    class Guess(HamiltonianModel):
        def hamiltonian(self, numbers, positions, lattice=None, edges=None):
            return torch.tensor(molecule_h0("minao-b3lyp", numbers, positions))

    model = make_model(basis)
    model.__class__ = Guess
    exact = fock_label(WATER.numbers, WATER.positions, "b3lyp").energy * Hartree
    errors = []
    for steps in (0, 6):
        atoms = WATER.copy()
        atoms.calc = HamiltonianCalculator(model, "b3lyp", steps=steps)
        errors.append(atoms.get_potential_energy() - exact)
    assert 0 < errors[1] < errors[0] / 10


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda a: a.set_pbc(True), DataError, "periodic"),
        (lambda a: a.set_initial_charges([1, 0, 0]), DataError, "charge 1"),
        (lambda a: a.set_initial_magnetic_moments([0, 1, 0]), DataError, "magnetic moment 1"),
        (lambda a: a.set_atomic_numbers([16, 1, 1]), BasisError, "S"),
        (lambda a: a.pop(), GenerationError, "cannot be all paired"),
        (lambda a: a.set_positions(0 * a.positions), DataError, "apart"),
    ],
)
def test_what_is_refused(converged, change, error, message):
    atoms = WATER.copy()
    change(atoms)
    atoms.calc = HamiltonianCalculator(converged, "b3lyp")
    with pytest.raises(error, match=message):
        atoms.get_potential_energy()


def test_settings(converged):
    with pytest.raises(ConfigError, match="functional is 'lda'"):
        HamiltonianCalculator(converged, "lda")
    with pytest.raises(ConfigError, match="steps is -1"):
        HamiltonianCalculator(converged, "b3lyp", steps=-1)
    with pytest.raises(ConfigError, match="network of crystals"):
        HamiltonianCalculator(HamiltonianModel(crystals.SmallBackbone(crystals.SPINLESS)), "b3lyp")
