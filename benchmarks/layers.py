"""Graphs of layered crystals with the edges that OpenMX would store."""

import numpy as np
import torch
from ase import Atoms

from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.graph import HamiltonianGraph, crystal_graph
from tracegrad.hamiltonian.neighbours import edges_within_range

DISPLACEMENT = 0.03  # standard deviation of each coordinate (angstrom)


def layer_graph(atoms: Atoms, basis: OrbitalBasis, rng: np.random.Generator) -> HamiltonianGraph:
    """The graph of a cell with thermal displacements, in float32 and without labels; the basis needs radii."""
    numbers, lattice = atoms.get_atomic_numbers(), np.asarray(atoms.cell)
    positions = atoms.get_positions() + rng.normal(scale=DISPLACEMENT, size=(len(atoms), 3))
    edges = edges_within_range(numbers, positions, lattice, atoms.pbc, basis)
    return crystal_graph(numbers, positions, lattice, edges, basis)


def labelled(graph: HamiltonianGraph, basis: OrbitalBasis, rng: np.random.Generator) -> HamiltonianGraph:
    """The graph with random hermitian labels."""
    size = (graph.num_edges, basis.dim, basis.dim)
    label = torch.from_numpy(rng.normal(size=size)).float()
    if basis.spinful:
        label = torch.complex(label, torch.from_numpy(rng.normal(size=size)).float())
    graph.h_edge = label + label[graph.reverse].mH
    return graph
