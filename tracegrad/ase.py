"""An ASE calculator: energy, forces and more from the Hamiltonian that a network predicts for a molecule.

from tracegrad.ase import HamiltonianCalculator

atoms.calc = HamiltonianCalculator("runs/qd/tracegrad_seed0", functional="b3lyp")
energy, forces = atoms.get_potential_energy(), atoms.get_forces()
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tracegrad.errors import ConfigError, DataError
from tracegrad.extras import require
from tracegrad.hamiltonian.trained_range import OutsideTrainingWarning
from tracegrad.model.ensemble import HamiltonianEnsemble
from tracegrad.model.network import HamiltonianModel
from tracegrad.weights.ensembles import load_ensemble

require("ase")
require("pyscf")

from ase import Atoms  # noqa: E402
from ase.calculators.calculator import Calculator, all_changes  # noqa: E402
from ase.units import Bohr, Hartree  # noqa: E402

from tracegrad.physics.molecules.dft import XC_CODES, build_molecule, check_geometry  # noqa: E402
from tracegrad.physics.molecules.energies import (  # noqa: E402
    EnergyFunctional,
    dipole,
    loewdin_charges,
    mulliken_charges,
)
from tracegrad.physics.molecules.levels import molecular_levels  # noqa: E402


class HamiltonianCalculator(Calculator):
    """Energy and forces of neutral closed-shell molecules from a network, see `tracegrad.physics.molecules.energies`.

    Results in ASE's units (eV, angstrom, elementary charges): ``energy``, ``free_energy``, ``forces``, ``dipole``,
    ``charges`` (Mulliken), and in ``results`` besides ``loewdin_charges``, ``homo``, ``lumo`` and ``gap``.

    Args:
        model: a network of molecules or an ensemble; or a run directory, a checkpoint or an exported file, or
            several, whose mean is taken. Of several the spread (eV; the mean of the standard deviations of the
            elements of H) is in ``results["spread"]``.
        functional: of the Hamiltonians that the network learned: b3lyp5, b3lyp, pbe or wb97x-d.
        steps: cycles of an SCF that PySCF makes from the prediction, at most. Without any, the error of forces is
            linear in that of the density; a few make it smaller.
        **options: of ASE's calculators.

    The first structure that lies outside of what the network was trained on causes an `OutsideTrainingWarning`.

    Raises:
        ConfigError: no network of molecules, networks of different Hamiltonians, an unknown functional, or a negative
            number of steps.
        CheckpointError: there is no such network.
    """

    implemented_properties = ["energy", "free_energy", "forces", "dipole", "charges"]  # noqa: RUF012

    def __init__(
        self,
        model: HamiltonianModel | HamiltonianEnsemble | str | Path | Sequence[str | Path],
        functional: str,
        *,
        steps: int = 0,
        **options: Any,
    ):
        super().__init__(**options)
        if isinstance(model, HamiltonianEnsemble):
            self.model = model
        elif isinstance(model, HamiltonianModel):
            self.model = HamiltonianEnsemble([model])
        else:
            self.model = load_ensemble([model] if isinstance(model, str | Path) else model)
        self._warned = False
        if self.model.basis.periodic:
            raise ConfigError("the model is a network of crystals; energies are those of molecules")
        if functional not in XC_CODES:
            raise ConfigError(f"functional is {functional!r}; choose {' or '.join(XC_CODES)}")
        if steps < 0:
            raise ConfigError(f"steps is {steps}; give 0 or more")
        self.functional, self.steps = functional, steps

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Called by ASE.

        Raises:
            BasisError: an element that the network does not know.
            DataError, GenerationError: a periodic system, a charge, unpaired electrons, or atoms at the same place.
        """
        super().calculate(atoms, list(properties), list(system_changes))
        assert self.atoms is not None
        numbers, positions = self._geometry(self.atoms)
        self._warn(numbers, positions)
        hamiltonian, spread = self.model.matrix(numbers, positions)
        molecule = build_molecule(numbers, positions)
        functional = EnergyFunctional(molecule, self.functional)
        found = functional(hamiltonian, steps=self.steps, forces="forces" in properties)
        overlap = functional.overlap
        # The Fock matrix of the last density is one step ahead of the prediction, whose levels are asked for.
        levels = molecular_levels(hamiltonian if not self.steps else found.fock, overlap, molecule.nelectron)
        self.results = {
            "energy": found.energy * Hartree,
            "free_energy": found.energy * Hartree,
            "dipole": dipole(molecule, found.density) * Bohr,
            "charges": mulliken_charges(molecule, found.density, overlap),
            "loewdin_charges": loewdin_charges(molecule, found.density, overlap),
            "homo": levels.homo * Hartree,
            "lumo": levels.lumo * Hartree,
            "gap": levels.gap * Hartree,
        }
        if len(self.model.members) > 1:
            self.results["spread"] = float(spread.mean()) * Hartree
        if found.forces is not None:
            self.results["forces"] = found.forces * Hartree / Bohr

    def _warn(self, numbers: np.ndarray, positions: np.ndarray) -> None:
        lines = [] if self._warned else self.model.outside_training(numbers, positions)
        if lines:
            self._warned = True
            message = f"outside of what the network was trained on: {'; '.join(lines)}"
            warnings.warn(message, OutsideTrainingWarning, stacklevel=2)

    def _geometry(self, atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
        if atoms.pbc.any():
            raise DataError("the atoms are periodic; energies are those of molecules, set atoms.pbc = False")
        charge, moment = atoms.get_initial_charges().sum(), atoms.get_initial_magnetic_moments().sum()
        if abs(charge) > 1e-6 or abs(moment) > 1e-6:
            raise DataError(
                f"the atoms have charge {charge:g} and magnetic moment {moment:g}; the network was trained on "
                "neutral closed shells only"
            )
        numbers, positions = atoms.numbers.astype(np.int64), atoms.positions.astype(np.float64)
        self.model.basis.check(numbers, "the atoms", trained=True)
        check_geometry(numbers, positions, "the atoms")
        return numbers, positions
