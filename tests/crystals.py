"""Small crystals, random labels and a small network of crystals for tests."""

from itertools import product

import numpy as np
import pytest
import torch
from e3nn.o3 import Irreps
from torch import nn

from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.blocks import cut_padding
from tracegrad.hamiltonian.graph import HamiltonianGraph, crystal_graph
from tracegrad.nn.interface import Backbone, Blocks, Refine, keep

SHELLS = {"Mo": "s2p1d1", "S": "s1p1"}
SPINLESS, SPINFUL = (OrbitalBasis.openmx(SHELLS, spinful=spinful) for spinful in (False, True))
COLLINEAR = OrbitalBasis.openmx(SHELLS, collinear=True)
BASES = pytest.mark.parametrize("basis", [SPINLESS, SPINFUL], ids=["spinless", "spinful"])

Crystal = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # numbers, positions, lattice, edges


def crystal(numbers: list[int], positions: list, lattice: list, radius: float) -> Crystal:
    """A crystal with all pairs within the radius, on-site ones included, in an order without a system."""
    x, cell = np.array(positions, dtype=float), np.array(lattice, dtype=float)
    atoms = range(len(numbers))
    edges = np.array(
        [
            (*shift, i, j)
            for shift in product(range(-2, 3), repeat=3)
            for i in atoms
            for j in atoms
            if np.linalg.norm(x[j] + np.array(shift) @ cell - x[i]) < radius
        ]
    )
    return np.array(numbers), x, cell, np.random.default_rng(0).permutation(edges)


# Both S lie 3.1 angstrom apart, neighbouring cells 3.16.
MOS2 = crystal(
    [42, 16, 16],
    [[0.0, 0.0, 3.1], [0.02, 1.82, 4.66], [-0.03, 1.83, 1.55]],
    [[3.16, 0.0, 0.0], [-1.58, 2.74, 0.0], [0.1, 0.0, 18.0]],
    3.3,
)
# Every neighbour is an image of the atom itself.
CHAIN = crystal([16], [[0.3, 0.1, 0.2]], [[2.1, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]], 2.5)
# On-site blocks only, and none of them.
ALONE = crystal([42], [[0.0, 0.0, 0.0]], np.diag([9.0, 9.0, 9.0]).tolist(), 1.0)
BONDS = (*MOS2[:3], MOS2[3][(MOS2[3][:, 3] != MOS2[3][:, 4])])
ALL = (MOS2, CHAIN, ALONE, BONDS)


def random_entries(sample: Crystal, basis: OrbitalBasis, seed: int = 0) -> np.ndarray:
    """Entries of a random H with H(-R, j, i) = H(R, i, j)^dagger."""
    graph = crystal_graph(*sample, basis, spin=_spin(basis, seed))
    shape = (len(sample[3]), basis.dim, basis.dim)
    rng = np.random.default_rng(seed)
    blocks = rng.normal(size=shape) + (1j * rng.normal(size=shape) if basis.spinful else 0)
    blocks = blocks + blocks[graph.reverse.numpy()].conj().swapaxes(1, 2)
    return cut_padding(blocks, graph.edge_index.numpy(), sample[0], basis)


def _spin(basis: OrbitalBasis, seed: int) -> str | None:
    """Spin of the sample with this seed: they alternate."""
    return basis.channels[seed % len(basis.channels)]


def labelled_graph(
    sample: Crystal, basis: OrbitalBasis, seed: int = 0, dtype: torch.dtype = torch.float64
) -> HamiltonianGraph:
    """Graph with random hermitian labels; those of a collinear basis are in turn of spin up and down."""
    entries, spin = random_entries(sample, basis, seed), _spin(basis, seed)
    return crystal_graph(*sample, basis, spin=spin, entries=entries, sample_id=seed, dtype=dtype)


class SmallBackbone(Backbone):
    """A network of crystals with the interface of a real one; it is not equivariant."""

    label = "SmallBackbone"
    periodic = True

    def __init__(self, basis: OrbitalBasis):
        super().__init__()
        self.basis = basis
        self.feature_irreps = {"edge": [Irreps("4x0e+2x1o")]}
        self.species = nn.Embedding(max(basis.elements) + 1, 2)
        self.vectors = nn.Parameter(torch.randn(2))
        self.out = nn.Linear(4 + 6, basis.dim**2 * basis.spins)

    def forward(self, graph, refine: Refine = keep) -> Blocks:
        dst, src = graph.edge_index
        lengths = graph.vectors.norm(dim=1, keepdim=True)
        species = self.species(graph.numbers)
        scalars = torch.cat([species[dst] * torch.exp(-lengths), species[src]], dim=1)
        o = refine("edge", 0, [scalars[None], graph.vectors.T[:, :, None] * self.vectors])
        flat = self.out(torch.cat([part.permute(1, 0, 2).flatten(1) for part in o], dim=1))
        dim = self.basis.dim
        blocks = (
            torch.view_as_complex(flat.view(-1, dim, dim, 2))
            if self.basis.spinful
            else flat.view(-1, dim, dim)
        )
        return {"edge": blocks + blocks[graph.reverse].conj().mT}
