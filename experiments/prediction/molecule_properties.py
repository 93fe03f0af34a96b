"""What a predicted molecule is asked for beside its levels: energy, charges, trust, and files of its orbitals."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from pyscf import gto

from tracegrad.physics.molecules.energies import (
    EnergyFunctional,
    commutator_norm,
    dipole,
    loewdin_charges,
    mulliken_charges,
    scf_residual,
)
from tracegrad.physics.molecules.levels import MolecularLevels
from tracegrad.physics.molecules.orbital_files import check_cube, write_cube, write_molden
from tracegrad.units import ANGSTROM_PER_BOHR, MEV_PER_HARTREE

DEBYE = 4.803204544 * ANGSTROM_PER_BOHR  # of an elementary charge times a bohr
# meV; in the example of docs/energies.md every prediction above it has a spurious orbital, and none below 110.
LARGE_RESIDUAL = 300.0


def check_files(values: dict[str, Any], levels: MolecularLevels) -> None:
    """Raise `ConfigError` unless the settings ``cubes`` and ``cube_spacing`` can be used for these orbitals."""
    for name in values["cubes"]:
        check_cube(levels, str(name), float(values["cube_spacing"]))


def write_files(
    molecule: gto.Mole, levels: MolecularLevels, output: Path, values: dict[str, Any]
) -> list[str]:
    """Write the Molden file and the cubes that the settings ask for; the names of the files."""
    names = []
    if values["molden"]:
        write_molden(molecule, levels, output / "orbitals.molden")
        names.append("orbitals.molden")
    for name in values["cubes"]:
        write_cube(molecule, levels, str(name), output / f"{name}.cube", float(values["cube_spacing"]))
        names.append(f"{name}.cube")
    return names


def properties(
    molecule: gto.Mole, hamiltonian: Float[np.ndarray, "n n"], functional: str
) -> tuple[dict[str, Any], str]:
    """Energy, dipole, charges and measures of trust of the predicted density: for the summary, and as text."""
    found = EnergyFunctional(molecule, functional)
    result = found(hamiltonian)
    moment = dipole(molecule, result.density) * DEBYE
    charges = mulliken_charges(molecule, result.density, found.overlap)
    residual = scf_residual(hamiltonian, result) * MEV_PER_HARTREE
    norm = commutator_norm(found.overlap, result) * MEV_PER_HARTREE
    summary = {
        "functional": functional,
        "energy_hartree": result.energy,
        "dipole_debye": moment.tolist(),
        "mulliken_charges": charges.tolist(),
        "loewdin_charges": loewdin_charges(molecule, result.density, found.overlap).tolist(),
        "scf_residual_mev": residual,
        "commutator_norm_mev": norm,
    }
    shown = " ".join(f"{molecule.atom_pure_symbol(i)} {charge:+.2f}" for i, charge in enumerate(charges[:12]))
    lines = [
        f"of the predicted density, with {functional} and without an SCF: energy {result.energy:.6f} hartree, dipole "
        f"{np.linalg.norm(moment):.2f} D",
        f"Mulliken charges: {shown}{' ...' if len(charges) > 12 else ''}",
        f"SCF residual {residual:.1f} meV, commutator norm {norm:.1f} meV (docs/energies.md; 0 for converged DFT)",
    ]
    if residual > LARGE_RESIDUAL:
        lines.append(
            "warning: the Fock matrix of the predicted density is far from the prediction; an occupied orbital is "
            "probably spurious, and the energy far off"
        )
    return summary, "\n".join(lines)
