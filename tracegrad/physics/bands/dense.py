"""All eigenstates of H c = E S c at one k, also where S is nearly singular.

An eigenvector u of S with a small eigenvalue s is a combination of orbitals that almost vanishes. Errors of H are
divided by s in the energies, and in the limit s = 0 there is no state at all. Such u are projected out: with the
other eigenvectors U and X = U s^(-1/2),

    X^H H X y = E y,    c = X y,    c^H S c = 1.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Complex, Float
from scipy.linalg import eigh, eigvalsh

from tracegrad.data.crystals.structure import Structure
from tracegrad.errors import DataError
from tracegrad.hamiltonian.neighbours import on_site_edges

# Eigenvalues of S below it are projected out by default; above it rounding changes energies by less than 1e-5 eV.
OVERLAP_THRESHOLD = 1e-8
NEGATIVE = 1e-6  # size of negative eigenvalues of S that are more than rounding
# Ghost states. c^H S c / c^H c is the eigenvalue of S that a state consists of on average; occupied states of DFT
# have more than 0.4 in most bases and 0.04 in SrTiO3, whose S has an eigenvalue of 8e-6. Bands lie at most 7 eV below
# the lowest level of an atom.
GHOST_OVERLAP = 0.02
GHOST_DEPTH = 15.0  # eV


@dataclass(frozen=True, eq=False)
class Eigenstates:
    """Consecutive eigenstates at one k, ascending in energy.

    Args:
        first: number of eigenstates that lie below these.
        energies: eV.
        vectors: columns c with c^H S c = 1.
    """

    first: int
    energies: Float[np.ndarray, " bands"]
    vectors: Complex[np.ndarray, "size bands"]

    @property
    def mean_overlaps(self) -> Float[np.ndarray, " bands"]:
        """c^H S c / c^H c of each state: small where a state consists of combinations that almost vanish."""
        return 1 / (np.abs(self.vectors) ** 2).sum(0)


@dataclass(frozen=True, eq=False)
class AllStates:
    """All eigenstates at one k.

    Args:
        states: the eigenstates.
        smallest_overlap: smallest eigenvalue of S(k).
        dropped: number of eigenvectors of S that have been projected out.
    """

    states: Eigenstates
    smallest_overlap: float
    dropped: int


def smallest_overlap(overlap: Complex[np.ndarray, "size size"], where: str, threshold: float) -> float:
    """Smallest eigenvalue of S(k).

    Raises:
        DataError: S is not positive: the eigenvalue is below 0 by more than rounding, or there is no threshold.
    """
    smallest = float(eigvalsh(overlap, subset_by_index=[0, 0])[0])
    if smallest < -NEGATIVE or (smallest <= 0 and not threshold > 0):
        raise not_positive(where, smallest)
    return smallest


def not_positive(where: str, smallest: float) -> DataError:
    """The error for an overlap matrix with this smallest eigenvalue."""
    return DataError(
        f"{where}: S is not positive definite (smallest eigenvalue {smallest:.1e}), so there are no bands; "
        "the overlap is damaged or the basis linearly dependent"
    )


def all_states(
    hamiltonian: Complex[np.ndarray, "size size"],
    overlap: Complex[np.ndarray, "size size"],
    where: str,
    threshold: float = OVERLAP_THRESHOLD,
    smallest: float | None = None,
) -> AllStates:
    """All eigenstates; eigenvectors of S with eigenvalues below ``threshold`` are projected out.

    Args:
        hamiltonian, overlap: H(k) in eV and S(k).
        where: structure and k, for messages.
        threshold: 0: nothing is projected out.
        smallest: smallest eigenvalue of S(k), if it is known.

    Raises:
        DataError: S is not positive definite, or all of it is below the threshold.
        LinAlgError: the eigenproblem was not solved.
    """
    if smallest is None:
        smallest = smallest_overlap(overlap, where, threshold)
    if smallest >= threshold:
        energies, vectors = eigh(hamiltonian, overlap)
        return AllStates(Eigenstates(0, energies, vectors), smallest, 0)
    values, directions = eigh(overlap)
    kept = values >= threshold
    if not kept.any():
        raise DataError(
            f"{where}: all eigenvalues of S are below overlap_threshold={threshold:g} (the largest is "
            f"{values[-1]:.1e}); give a smaller one"
        )
    basis = directions[:, kept] / np.sqrt(values[kept])
    energies, mixing = eigh(basis.conj().T @ hamiltonian @ basis)
    return AllStates(Eigenstates(0, energies, basis @ mixing), smallest, int((~kept).sum()))


def deepest_level(structure: Structure) -> float:
    """Energy (eV) below which a state is a ghost: 15 eV below the lowest level of an atom.

    Those are the solutions of the on-site blocks, H_ii c = E S_ii c: where a basis has several similar functions, the
    diagonal elements of H lie far above them.
    """
    on_site = on_site_edges(structure.edges)
    spins = np.eye(structure.basis.spins)
    lowest = [
        eigh(h, np.kron(spins, s), eigvals_only=True, subset_by_index=[0, 0])[0]
        for h, s, chosen in zip(
            structure.blocks("hamiltonian"), structure.blocks("overlap"), on_site, strict=True
        )
        if chosen
    ]
    return float(min(lowest)) - GHOST_DEPTH


def count_ghosts(
    energies: Float[np.ndarray, " bands"],
    mean_overlaps: Float[np.ndarray, " bands"],
    level: float,
    deepest: float,
) -> int:
    """Number of ghost states below the Fermi level: those of a small overlap, or far below all on-site levels.

    Such states come from errors of H in a nearly singular basis. They hold electrons, so the Fermi level is wrong.

    Args:
        energies: eV.
        mean_overlaps: see `Eigenstates`.
        level: Fermi level, eV.
        deepest: see `deepest_level`.
    """
    below = energies < level
    return int((below & ((mean_overlaps < GHOST_OVERLAP) | (energies < deepest))).sum())
