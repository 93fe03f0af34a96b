"""A molecule as a crystal without images, for networks whose blocks all belong to edges.

A batch of molecules has all pairs of different atoms as edges, and on-site blocks at a site of their own. As crystals
they have one more edge for each atom, from the atom to itself; every edge lies in the cell R = 0:

    edges     (0,0) (1,1) ... (N-1,N-1) | all pairs of each molecule, in the order of the molecules
    vectors     0     0   ...     0     | x_src - x_dst
    blocks         site "self"          | site "edge"

Nothing else differs: blocks stay in the union layout and the unit of the basis. Positions keep their gradients.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Inexact, Int
from torch import Tensor


@dataclass(frozen=True)
class CrystalView:
    """The fields of a batch of crystals without labels, see `tracegrad.hamiltonian.graph`."""

    numbers: Int[Tensor, " atoms"]
    positions: Float[Tensor, "atoms 3"]
    edge_index: Int[Tensor, "2 edges"]
    reverse: Int[Tensor, " edges"]
    vectors: Float[Tensor, "edges 3"]
    cells: Int[Tensor, "edges 3"]
    batch: Int[Tensor, " atoms"]
    num_graphs: int


def as_crystals(graph) -> CrystalView:
    """A batch of molecules (angstrom) as crystals; the first edges are those of the atoms to themselves."""
    positions: Tensor = graph.positions
    atoms, pairs = len(positions), graph.edge_index
    own = torch.arange(atoms, device=positions.device)
    vectors = positions.index_select(0, pairs[1]) - positions.index_select(0, pairs[0])
    edge_index = torch.cat([own.expand(2, -1), pairs], dim=1)
    return CrystalView(
        graph.numbers,
        positions,
        edge_index,
        torch.cat([own, graph.reverse + atoms]),
        torch.cat([torch.zeros_like(positions), vectors]),
        edge_index.new_zeros(edge_index.shape[1], 3),
        graph.batch,
        graph.num_graphs,
    )


def by_site(of_edges: Inexact[Tensor, "edges *_"], graph) -> dict[str, Inexact[Tensor, "_ *_"]]:
    """What belongs to the edges of the crystals, such as their blocks, at the sites of the molecules in ``graph``."""
    atoms = len(graph.numbers)
    return {"self": of_edges[:atoms], "edge": of_edges[atoms:]}
