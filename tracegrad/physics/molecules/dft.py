"""Computes the DFT label of one geometry: the converged Fock matrix of RKS in def2-SVP, on QH9's grid."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from tracegrad.elements import SYMBOLS
from tracegrad.errors import BasisError, GenerationError
from tracegrad.extras import MissingExtraError
from tracegrad.hamiltonian.basis import DEF2_SVP
from tracegrad.hamiltonian.geometry import check_positions

try:
    from pyscf import dft, gto
except ModuleNotFoundError as error:
    raise MissingExtraError("pyscf") from error

BASIS = "def2-svp"
GRID_LEVEL = 3

# The meaning of PySCF's name `b3lyp` has changed between releases and depends on the user's PySCF configuration, and
# PySCF adds a dispersion correction to some names; those on the right always mean the same functional.
XC_CODES = {
    "b3lyp": "b3lypg",  # VWN-RPA: QH9 dynamic-100k
    "b3lyp5": "b3lyp5",  # VWN5: QH9 stable and dynamic-300k
    "pbe": "pbe",  # MD17 of SchNOrb
    "wb97x-d": "HYB_GGA_XC_WB97X_D",  # nablaDFT; its dispersion term does not depend on the density
}
# Nuclei are never as close as this at 300 K (H2: 0.74); such a file is damaged or has another unit of length.
MIN_DISTANCE_ANGSTROM = 0.4


class ScfNotConverged(GenerationError):
    """A self-consistent field that did not converge within its cycles."""

    def __init__(self, cycles: int) -> None:
        super().__init__(f"the SCF did not converge in {cycles} cycle{'s' * (cycles != 1)}")


@dataclass(frozen=True)
class FockLabel:
    """The result of one SCF. `forces` is None unless forces were requested and the SCF has converged."""

    hamiltonian: Float[np.ndarray, "n_orb n_orb"]  # hartree, PySCF orbital order
    energy: float  # hartree
    converged: bool
    cycles: int
    density: Float[np.ndarray, "n_orb n_orb"]
    forces: Float[np.ndarray, "n_atoms 3"] | None  # hartree / bohr


def check_geometry(
    numbers: Int[np.ndarray, "n_atoms"], positions_angstrom: Float[np.ndarray, "n_atoms 3"], name: str
) -> None:
    """Check that a molecule has a label: elements of def2-SVP, an even number of electrons, no atoms too close.

    Raises:
        BasisError, GenerationError, DataError: it is not such a molecule; the message begins with ``name``.
    """
    check_positions(numbers, positions_angstrom, name, MIN_DISTANCE_ANGSTROM)
    foreign = sorted({int(number) for number in numbers} - DEF2_SVP.keys())
    if foreign:
        symbols = ", ".join(SYMBOLS[z] if 0 < z < len(SYMBOLS) else str(z) for z in foreign)
        raise BasisError(
            f"{name}: element {symbols} is not tabulated in def2-SVP here "
            f"({SYMBOLS[min(DEF2_SVP)]} to {SYMBOLS[max(DEF2_SVP)]} are)"
        )
    if int(np.sum(numbers)) % 2:
        raise GenerationError(
            f"{name}: {int(np.sum(numbers))} electrons cannot be all paired; labels are made for neutral "
            "closed-shell molecules only, leave this geometry out"
        )


def build_molecule(
    numbers: Int[np.ndarray, "n_atoms"], positions_angstrom: Float[np.ndarray, "n_atoms 3"]
) -> gto.Mole:
    """The neutral PySCF molecule in def2-SVP with spherical functions, in its original orientation."""
    atoms = [(int(z), tuple(xyz)) for z, xyz in zip(numbers, positions_angstrom.tolist(), strict=True)]
    return gto.M(
        atom=atoms, unit="Angstrom", basis=BASIS, charge=0, spin=0, symmetry=False, verbose=0, parse_arg=False
    )


def fock_label(
    numbers: Int[np.ndarray, "n_atoms"],
    positions_angstrom: Float[np.ndarray, "n_atoms 3"],
    functional: str,
    *,
    conv_tol: float | None = None,
    max_cycle: int = 50,
    density_guess: Float[np.ndarray, "n_orb n_orb"] | None = None,
    with_forces: bool = False,
    name: str = "geometry",
) -> FockLabel:
    """Solve RKS/def2-SVP and return the Fock matrix built from the final density.

    Args:
        numbers: atomic numbers of a neutral closed-shell molecule.
        positions_angstrom: coordinates, angstrom.
        functional: a key of `XC_CODES`.
        conv_tol: energy convergence in hartree; PySCF's default (1e-9) if None.
        max_cycle: largest number of SCF cycles.
        density_guess: density matrix to start from; PySCF's `minao` guess if None.
        with_forces: compute the nuclear forces too, where the SCF has converged.
        name: of the geometry in error messages.

    Raises:
        GenerationError: the functional is unknown, or the electrons cannot be paired.
        BasisError: an element is not tabulated in def2-SVP.
    """
    if functional not in XC_CODES:
        raise GenerationError(f"functional {functional!r} is unknown; choose one of {', '.join(XC_CODES)}")
    check_geometry(numbers, positions_angstrom, name)
    field = dft.RKS(build_molecule(numbers, positions_angstrom), xc=XC_CODES[functional])
    field.grids.level = GRID_LEVEL
    field.chkfile = None
    field.max_cycle = max_cycle
    if conv_tol is not None:
        field.conv_tol = conv_tol
    energy = field.kernel(dm0=density_guess)
    density = np.asarray(field.make_rdm1())
    forces = None
    if with_forces and field.converged:
        gradient = field.nuc_grad_method()
        gradient.verbose = 0
        forces = -gradient.kernel()
    return FockLabel(
        hamiltonian=np.asarray(field.get_fock(dm=density)),
        energy=float(energy),
        converged=bool(field.converged),
        cycles=int(field.cycles),
        density=density,
        forces=forces,
    )
