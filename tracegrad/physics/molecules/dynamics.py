"""Born-Oppenheimer dynamics at constant energy: velocity Verlet with the forces of the SCF that gives the labels.

A trajectory is computed from one stored frame to the next. `TrajectoryState` holds everything that the next frame
depends on, so that a trajectory that continues from a saved state equals one without interruption.
"""

from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.md.verlet import VelocityVerlet
from jaxtyping import Float, Int

from tracegrad.physics.molecules.dft import FockLabel, ScfNotConverged, fock_label
from tracegrad.units import BOHR_PER_ANGSTROM


@dataclass
class DynamicsSettings:
    """Settings of a trajectory: times in atomic units (0.02418884 fs), temperature in kelvin, conv_tol in hartree."""

    functional: str | None = None  # None: that of the paper's trajectories
    conv_tol: float | None = None
    max_cycle: int = 50
    time_step: float = 50.0
    stride: int = 1  # time steps between stored frames
    equilibration: int = 0  # time steps before the first stored frame
    temperature: float = 300.0

    @property
    def xc(self) -> str:
        """The functional."""
        return self.functional or "b3lyp"


@dataclass(frozen=True)
class TrajectoryState:
    """A trajectory at a stored frame in ASE units (angstrom, eV, amu), with energy, forces and density of its SCF."""

    frame: int
    positions: Float[np.ndarray, "n_atoms 3"]
    momenta: Float[np.ndarray, "n_atoms 3"]
    energy: float
    forces: Float[np.ndarray, "n_atoms 3"]
    density: Float[np.ndarray, "n_orb n_orb"]


@dataclass(frozen=True)
class LabelledFrame:
    """A geometry with its label, as in a QH9 database: energies in hartree, time in atomic units.

    Positions are in bohr in a trajectory; elsewhere they are in angstrom, and only ``epot`` is known.
    """

    number: int
    positions: Float[np.ndarray, "n_atoms 3"]
    hamiltonian: Float[np.ndarray, "n_orb n_orb"]
    epot: float
    ekin: float | None = None
    etot: float | None = None
    time: float | None = None


class LabelCalculator(Calculator):
    """ASE calculator: energy (eV) and forces (eV/angstrom) from the SCF whose Fock matrix is the label."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]  # type: ignore[misc]
    last: FockLabel  # of the latest geometry; undefined before the first SCF

    def __init__(
        self,
        settings: DynamicsSettings,
        density: Float[np.ndarray, "n_orb n_orb"] | None = None,
        name: str = "geometry",
    ) -> None:
        super().__init__()
        self.settings = settings
        self.density = density
        self.geometry_name = name

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] = implemented_properties,
        system_changes: list[str] = all_changes,
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        geometry = cast(Atoms, self.atoms)
        label = fock_label(
            geometry.numbers,
            geometry.positions,
            self.settings.xc,
            conv_tol=self.settings.conv_tol,
            max_cycle=self.settings.max_cycle,
            density_guess=self.density,
            with_forces=True,
            name=self.geometry_name,
        )
        if not label.converged:
            raise ScfNotConverged(label.cycles)
        self.last, self.density = label, label.density
        self.results = {
            "energy": label.energy * units.Hartree,
            "forces": cast(np.ndarray, label.forces) * (units.Hartree / units.Bohr),
        }

    def restore(self, atoms: Atoms, state: TrajectoryState) -> None:
        """Set the results of a saved state, so that its SCF is not solved again."""
        self.atoms = atoms.copy()
        self.results = {"energy": state.energy, "forces": state.forces.copy()}


def draw_velocities(atoms: Atoms, temperature: float, rng: np.random.Generator) -> None:
    """Set velocities of the internal motion at exactly `temperature` (kelvin), in place.

    They are drawn from the Maxwell-Boltzmann distribution. Then the total momentum and the angular momentum are
    removed, and the rest is scaled to kT/2 for each of the 3N - 6 (linear molecules: 3N - 5) internal motions.
    Without the scaling the temperature of a small molecule is often wrong by a factor of three.
    """
    masses = atoms.get_masses()[:, None]
    # Velocities in units of sqrt(eV/amu), as ASE has them.
    velocities = rng.standard_normal((len(atoms), 3)) / np.sqrt(masses)
    velocities = velocities - (masses * velocities).sum(0) / masses.sum()
    arms = atoms.positions - (masses * atoms.positions).sum(0) / masses.sum()
    inertia = (masses * arms**2).sum() * np.eye(3) - (masses * arms).T @ arms
    angular_momentum = (masses * np.cross(arms, velocities)).sum(0)
    # The inverse without the null space: a linear molecule has no rotation about its axis.
    rotation = np.linalg.pinv(inertia, rcond=1e-8, hermitian=True) @ angular_momentum
    velocities = velocities - np.cross(rotation, arms)
    internal = 3 * len(atoms) - 3 - int(np.linalg.matrix_rank(inertia, rtol=1e-8, hermitian=True))
    kinetic = 0.5 * (masses * velocities**2).sum()
    target = 0.5 * internal * units.kB * temperature
    atoms.set_velocities(velocities * np.sqrt(target / kinetic) if internal else np.zeros_like(velocities))


def first_frame(
    numbers: Int[np.ndarray, "n_atoms"],
    positions_angstrom: Float[np.ndarray, "n_atoms 3"],
    settings: DynamicsSettings,
    seed: list[int],
    name: str = "geometry",
) -> tuple[LabelledFrame, TrajectoryState]:
    """Draw velocities, run the equilibration steps and return frame 0.

    The temperature of the settings is that of the drawn velocities. From a start at a minimum about half of the
    kinetic energy becomes potential energy, so that the mean kinetic temperature of the trajectory is well below it.
    """
    atoms = Atoms(numbers, positions=positions_angstrom)
    draw_velocities(atoms, settings.temperature, np.random.default_rng(seed))
    calculator = LabelCalculator(settings, name=name)
    atoms.calc = calculator
    return _advance(atoms, calculator, settings.equilibration, settings, frame=0)


def next_frame(
    numbers: Int[np.ndarray, "n_atoms"],
    state: TrajectoryState,
    settings: DynamicsSettings,
    name: str = "geometry",
) -> tuple[LabelledFrame, TrajectoryState]:
    """Run `settings.stride` time steps from a stored frame to the next one."""
    atoms = Atoms(numbers, positions=state.positions, momenta=state.momenta)
    calculator = LabelCalculator(settings, density=state.density, name=name)
    calculator.restore(atoms, state)
    atoms.calc = calculator
    return _advance(atoms, calculator, settings.stride, settings, frame=state.frame + 1)


def _advance(
    atoms: Atoms, calculator: LabelCalculator, steps: int, settings: DynamicsSettings, frame: int
) -> tuple[LabelledFrame, TrajectoryState]:
    integrator = VelocityVerlet(atoms, timestep=settings.time_step * units.AUT)
    for _ in range(steps):
        integrator.step()
    epot = atoms.get_potential_energy() / units.Hartree
    ekin = atoms.get_kinetic_energy() / units.Hartree
    return (
        LabelledFrame(
            number=frame,
            positions=atoms.positions * BOHR_PER_ANGSTROM,
            ekin=float(ekin),
            epot=float(epot),
            etot=float(ekin + epot),
            time=(settings.equilibration + frame * settings.stride) * settings.time_step,
            hamiltonian=calculator.last.hamiltonian,
        ),
        TrajectoryState(
            frame=frame,
            positions=atoms.get_positions(),
            momenta=atoms.get_momenta(),
            energy=float(calculator.results["energy"]),
            forces=calculator.results["forces"],
            density=calculator.last.density,
        ),
    )
