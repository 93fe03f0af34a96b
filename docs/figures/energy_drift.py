"""Draw the total energy of a molecule in motion, by a network and a few SCF cycles: the figure of docs/energies.md.

python docs/figures/energy_drift.py RUN [STRUCTURE.xyz] [--functional b3lyp] [--frames 100] [--output FILE.png]

Each line starts from the same positions and velocities (300 K). The table has the largest deviation of the total
energy, the one at the end, the number of BFGS steps to 0.03 eV/angstrom and the seconds of a frame.
"""

import argparse
import time

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.io import read
from ase.md.velocitydistribution import Stationary, ZeroRotation
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from ase.units import fs, kB

from tracegrad import load_ensemble
from tracegrad.ase import HamiltonianCalculator
from tracegrad.model.ensemble import HamiltonianEnsemble
from tracegrad.plots.style import SERIES_COLOURS, grid, make_figure, save, styled

CYCLES = {
    0: "predicted density",
    1: "and one SCF cycle",
    3: "three cycles",
    50: "converged (up to 50 cycles)",
}
TIMESTEP = 0.5  # fs
TEMPERATURE = 300  # K
FORCE = 0.03  # eV/angstrom
MOST_STEPS = 100  # of an optimisation


def total_energies(
    network: HamiltonianEnsemble, atoms: Atoms, functional: str, cycles: int, frames: int
) -> np.ndarray:
    """Total energy (eV) at the start and after each of ``frames`` steps of velocity Verlet."""
    moving = atoms.copy()
    moving.calc = HamiltonianCalculator(network, functional, steps=cycles)
    thermal = np.sqrt(moving.get_masses() * kB * TEMPERATURE)[:, None]
    moving.set_momenta(thermal * np.random.default_rng(0).standard_normal((len(atoms), 3)))
    Stationary(moving)
    ZeroRotation(moving)
    dynamics = VelocityVerlet(moving, timestep=TIMESTEP * fs)
    energies = [moving.get_total_energy()]
    for _ in range(frames):
        dynamics.run(1)
        energies.append(moving.get_total_energy())
    return np.array(energies)


def steps_of_optimisation(network: HamiltonianEnsemble, atoms: Atoms, functional: str, cycles: int) -> int:
    """Number of BFGS steps until no force is above `FORCE`; at most `MOST_STEPS`."""
    relaxed = atoms.copy()
    relaxed.calc = HamiltonianCalculator(network, functional, steps=cycles)
    optimiser = BFGS(relaxed, logfile=None)
    optimiser.run(fmax=FORCE, steps=MOST_STEPS)
    return optimiser.get_number_of_steps()


@styled
def figure_of(energies: dict[str, np.ndarray]):
    """The deviations (meV) of the total energies from that at the start."""
    figure = make_figure(6.0, 3.2)
    ax = figure.subplots()
    for colour, (name, values) in zip(SERIES_COLOURS, energies.items(), strict=False):
        ax.plot(np.arange(len(values)) * TIMESTEP, (values - values[0]) * 1000, color=colour, label=name)
    ax.set_xlabel("time (fs)")
    ax.set_ylabel("change of the total energy (meV)")
    ax.legend()
    grid(ax, "both")
    return figure


def main(arguments: list[str] | None = None) -> None:
    """Run the dynamics, print the table and write the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="run directory, checkpoint or model file")
    parser.add_argument("structure", nargs="?", help="geometry file; without it a water molecule")
    parser.add_argument("--functional", default="b3lyp")
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--output", default="energy-drift.png")
    given = parser.parse_args(arguments)
    network = load_ensemble([given.run])
    atoms = read(given.structure) if given.structure else molecule("H2O")
    assert isinstance(atoms, Atoms)
    energies = {}
    for cycles, name in CYCLES.items():
        started = time.perf_counter()
        values = total_energies(network, atoms, given.functional, cycles, given.frames)
        seconds = (time.perf_counter() - started) / (given.frames + 1)
        energies[name] = values
        change = (values - values[0]) * 1000
        steps = steps_of_optimisation(network, atoms, given.functional, cycles)
        print(
            f"| {name} | {np.abs(change).max():.1f} meV | {change[-1]:+.1f} meV | {steps} steps | {seconds:.2f} s |"
        )
    save(figure_of(energies), given.output)
    print(f"wrote {given.output}")


if __name__ == "__main__":
    main()
