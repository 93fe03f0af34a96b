"""Computes H0 of molecules, see `tracegrad.hamiltonian.h0`, and keeps it in a cache beside the database."""

from functools import partial

import numpy as np
from jaxtyping import Float, Int
from pyscf import dft, scf

from tracegrad.data.molecules.database import Molecule
from tracegrad.errors import ConfigError
from tracegrad.hamiltonian.h0 import CORE, MINAO, NAMES, SAP
from tracegrad.physics.molecules.dft import GRID_LEVEL, XC_CODES, build_molecule
from tracegrad.physics.molecules.molecule_cache import Entries, Stored

STEP = 1e-3  # angstrom; largest displacement of an atom between the points of a difference


def molecule_h0(
    name: str, numbers: Int[np.ndarray, " atoms"], positions: Float[np.ndarray, "atoms 3"]
) -> Float[np.ndarray, "n n"]:
    """H0 of a neutral closed-shell molecule in def2-SVP.

    Args:
        name: one of `tracegrad.hamiltonian.h0.NAMES`.
        numbers: atomic numbers.
        positions: angstrom.

    Returns:
        Symmetric matrix, hartree, in PySCF's orbital order.
    """
    molecule = build_molecule(numbers, positions)
    if name == CORE:
        return scf.hf.get_hcore(molecule)
    if name not in NAMES:
        raise ConfigError(f"H0 is {name!r}; choose {', '.join(NAMES)}")
    field = dft.RKS(molecule, xc=XC_CODES.get(name.removeprefix(MINAO), ""))
    field.grids.level = GRID_LEVEL
    field.chkfile = None
    if name == SAP:
        matrix = molecule.intor_symmetric("int1e_kin") + field.get_vsap()
    else:
        matrix = np.asarray(field.get_fock(dm=scf.hf.init_guess_by_minao(molecule)))
    return (matrix + matrix.T) / 2


def molecule_h0_derivative(
    name: str,
    numbers: Int[np.ndarray, " atoms"],
    positions: Float[np.ndarray, "atoms 3"],
    displacement: Float[np.ndarray, "atoms 3"],
) -> Float[np.ndarray, "n n"]:
    """Derivative of H0 along a displacement, hartree per angstrom times the unit of the displacement.

    PySCF has none of the Fock matrix of a density guess: it is the central difference of five points, exact to about
    1e-6 of H0.
    """
    largest = np.abs(displacement).max()
    if largest == 0:
        return np.zeros_like(molecule_h0(name, numbers, positions))
    step = STEP / largest
    a, b, c, d = (molecule_h0(name, numbers, positions + k * step * displacement) for k in (-2, -1, 1, 2))
    return (a - 8 * b + 8 * c - d) / (12 * step)


def h0_entries(name: str) -> Entries[np.ndarray]:
    """H0 of the molecules of a database, as it is computed and stored: the lower triangle, n (n + 1) / 2 numbers."""
    return Entries(
        title=f"H0 ({name})",
        suffix=f".tracegrad-h0-{name}",
        setting="data.h0_cache",
        compute=partial(_compute, name),
        encode=_encode,
        decode=_decode,
        length=_length,
        about={"h0": name, "grid": GRID_LEVEL},
    )


def _compute(name: str, molecule: Molecule, _where: str) -> Float[np.ndarray, " packed"]:
    matrix = molecule_h0(name, molecule.numbers, molecule.positions)
    return matrix[np.tril_indices(len(matrix))]


def _encode(triangle: Float[np.ndarray, " packed"]) -> Stored:
    return Stored(int(np.sqrt(2 * len(triangle))), 0, [triangle])


def _decode(
    _size: int, _occupied: int, numbers: Float[np.ndarray, " packed"]
) -> Float[np.ndarray, " packed"]:
    return numbers


def _length(n: int) -> int:
    return n * (n + 1) // 2
