"""Extended Hueckel crystals, whose H and S are known functions of the positions: H_ij = k (E_i + E_j) S_ij."""

from collections.abc import Mapping

import numpy as np
import torch

from tests.crystals import Crystal
from tracegrad.data.crystals.structure import Structure, edge_order
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.physics.overlaps.radial_shells import RadialShell, RadialShells
from tracegrad.physics.overlaps.two_centre import TwoCentreOverlaps

LEVELS = {0: -15.0, 1: -9.0}  # eV
K = 0.875


def slater_shells(number: int, exponents: Mapping[int, float], cutoff: float = 5.0) -> RadialShells:
    """r exp(-zeta r) of each degree, made zero smoothly at the cutoff (bohr)."""
    r = np.linspace(0, cutoff, 1001)
    shells = []
    for degree, zeta in exponents.items():
        values = r * np.exp(-zeta * r) * (1 - (r / cutoff) ** 2) ** 2
        values /= np.sqrt(np.trapezoid((r * values) ** 2, r))
        shells.append(RadialShell(degree, r, values, np.gradient(values, r), cutoff))
    return RadialShells("slater", number, tuple(shells))


class Hueckel:
    """H and S of a crystal of one element with the shells s and p."""

    def __init__(self, sample: Crystal, zeta: float = 1.625):
        self.numbers, self.positions, self.lattice, edges = sample
        self.edges = edges[edge_order(edges)]
        number = int(self.numbers[0])
        self.overlaps = TwoCentreOverlaps({number: slater_shells(number, {0: zeta, 1: zeta})})
        self.basis = OrbitalBasis.openmx({number: "s1p1"})
        levels = np.array([LEVELS[0], *[LEVELS[1]] * 3])
        factors = np.broadcast_to(K * (levels[:, None] + levels), (len(self.edges), 4, 4)).copy()
        factors[(self.edges[:, :3] == 0).all(1) & (self.edges[:, 3] == self.edges[:, 4])] = np.diag(levels)
        self.factors = factors.ravel()

    def structure(self, positions: np.ndarray) -> Structure:
        """With H and S."""
        overlap = self.overlaps.entries(
            self.numbers, torch.from_numpy(positions), torch.from_numpy(self.lattice), self.edges, self.basis
        ).numpy()
        return self._structure(positions, overlap)

    def derivative(self, displacement: np.ndarray) -> Structure:
        """With dH and dS along a displacement of the atoms."""
        overlap = self.overlaps.entries_along(
            self.numbers,
            torch.from_numpy(self.positions),
            torch.from_numpy(self.lattice),
            self.edges,
            self.basis,
            torch.from_numpy(displacement),
        ).numpy()
        return self._structure(self.positions, overlap)

    def _structure(self, positions: np.ndarray, overlap: np.ndarray) -> Structure:
        return Structure(
            name="hueckel",
            numbers=self.numbers,
            positions=positions,
            lattice=self.lattice,
            shells={int(self.numbers[0]): (0, 1)},
            spinful=False,
            fermi_level=None,
            edges=self.edges,
            hamiltonian=self.factors * overlap,
            overlap=overlap,
        )
