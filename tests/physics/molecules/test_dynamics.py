import dataclasses

import numpy as np
import pytest
from ase import Atoms, units
from ase.collections import g2

from tracegrad.physics.molecules.dft import ScfNotConverged, fock_label
from tracegrad.physics.molecules.dynamics import DynamicsSettings, draw_velocities, first_frame, next_frame
from tracegrad.units import BOHR_PER_ANGSTROM

NUMBERS = np.array([1, 1], np.int32)
POSITIONS = np.array([[0.0, 0.0, 0.0], [0.1, 0.2, 0.75]])
SETTINGS = DynamicsSettings(conv_tol=1e-11)


@pytest.fixture(scope="module")
def trajectory():
    frame, state = first_frame(NUMBERS, POSITIONS, SETTINGS, seed=[3, 0])
    made = [(frame, state)]
    for _ in range(5):
        made.append(next_frame(NUMBERS, made[-1][1], SETTINGS))
    return made


def test_energy_and_time_of_the_frames_belong_together(trajectory):
    frames = [frame for frame, _ in trajectory]
    for frame in frames:
        assert frame.etot == pytest.approx(frame.epot + frame.ekin, abs=1e-12)
    assert [frame.time for frame in frames] == [0, 50, 100, 150, 200, 250]
    assert [frame.number for frame in frames] == [0, 1, 2, 3, 4, 5]


def test_the_total_energy_is_kept():
    """Energy is conserved with a small step; half a period of H2 is only three of the released time steps."""
    settings = dataclasses.replace(SETTINGS, time_step=10.0)
    frame, state = first_frame(NUMBERS, POSITIONS, settings, seed=[3, 0])
    frames = [frame]
    for _ in range(8):
        frame, state = next_frame(NUMBERS, state, settings)
        frames.append(frame)
    assert np.ptp([frame.etot for frame in frames]) < 0.03 * np.ptp([frame.ekin for frame in frames])


def test_the_first_frame_is_the_geometry_at_the_temperature(trajectory):
    frame, _ = trajectory[0]
    np.testing.assert_allclose(frame.positions / BOHR_PER_ANGSTROM, POSITIONS, atol=1e-12)
    # One vibration: kT/2, in hartree.
    assert frame.ekin == pytest.approx(0.5 * units.kB * 300 / units.Hartree, rel=1e-9)


def test_the_matrix_of_a_frame_is_the_label_of_its_geometry(trajectory):
    frame, _ = trajectory[3]
    label = fock_label(NUMBERS, frame.positions / BOHR_PER_ANGSTROM, "b3lyp", conv_tol=1e-11)
    np.testing.assert_allclose(frame.hamiltonian, label.hamiltonian, atol=1e-6)
    assert frame.epot == pytest.approx(label.energy, abs=1e-9)


def test_steps_between_frames_and_before_them_are_steps_of_the_same_trajectory(trajectory):
    settings = dataclasses.replace(SETTINGS, stride=2, equilibration=1)
    frame, state = first_frame(NUMBERS, POSITIONS, settings, seed=[3, 0])
    second, _ = next_frame(NUMBERS, state, settings)
    for made, known in ((frame, trajectory[1][0]), (second, trajectory[3][0])):
        assert made.time == known.time
        np.testing.assert_allclose(made.positions, known.positions, atol=1e-9)
        np.testing.assert_allclose(made.hamiltonian, known.hamiltonian, atol=1e-7)


def test_a_time_step_is_the_integral_of_the_forces(trajectory):
    """Positions after a step from the textbook formula, in atomic units."""
    masses = Atoms(NUMBERS).get_masses()[:, None] * units._amu / units._me
    (first, state), (second, _) = trajectory[:2]
    velocities = state.momenta / Atoms(NUMBERS).get_masses()[:, None] * units.AUT / units.Bohr
    label = fock_label(NUMBERS, POSITIONS, "b3lyp", conv_tol=1e-11, with_forces=True)
    moved = first.positions + 50 * velocities + 0.5 * 50**2 * label.forces / masses
    np.testing.assert_allclose(second.positions, moved, atol=1e-7)


def test_an_scf_that_does_not_converge_is_an_error():
    with pytest.raises(ScfNotConverged, match="did not converge in 1 cycle"):
        first_frame(NUMBERS, POSITIONS, dataclasses.replace(SETTINGS, max_cycle=1), seed=[0])


@pytest.mark.parametrize(("name", "internal"), [("H2", 1), ("HCN", 4), ("H2O", 3), ("CH4", 9)])
def test_velocities_have_the_temperature_and_no_rigid_motion(name, internal):
    atoms = g2[name]
    atoms.rotate(40, (1, 2, 3))
    draw_velocities(atoms, 300.0, np.random.default_rng(0))
    assert atoms.get_kinetic_energy() == pytest.approx(internal * 0.5 * units.kB * 300)
    np.testing.assert_allclose(atoms.get_momenta().sum(0), 0, atol=1e-12)
    np.testing.assert_allclose(atoms.get_angular_momentum(), 0, atol=1e-12)
    again = g2[name]
    again.rotate(40, (1, 2, 3))
    draw_velocities(again, 300.0, np.random.default_rng(0))
    np.testing.assert_array_equal(again.get_momenta(), atoms.get_momenta())
