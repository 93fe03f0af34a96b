"""The fields of a graph: one molecule with its labels, or a batch of molecules.

| field          | shape, dtype            | meaning                                                        |
|----------------|-------------------------|----------------------------------------------------------------|
| ``numbers``    | (atoms,) int64          | atomic numbers                                                 |
| ``positions``  | (atoms, 3) float        | angstrom                                                       |
| ``edge_index`` | (2, edges) int64        | row 0 destination, row 1 source (see `tracegrad.blocks`)       |
| ``reverse``    | (edges,) int64          | position of the reversed edge                                  |
| ``h_self``     | (atoms, dim, dim) float | on-site blocks of H in the union layout, hartree; optional     |
| ``h_edge``     | (edges, dim, dim) float | pair blocks of H in the union layout, hartree; optional        |
| ``sample_id``  | (1,) int64              | row of the database                                            |
| ``batch``      | (atoms,) int64          | molecule of each atom (made by collation)                      |
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch_geometric.data import Batch, Data

from tracegrad.basis import OrbitalBasis
from tracegrad.blocks import complete_edges, cut_blocks


class HamiltonianGraph(Data):
    """A PyG graph whose ``reverse`` field counts edges when graphs are batched."""

    def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        if key == "reverse":
            return self["edge_index"].shape[1]
        return super().__inc__(key, value, *args, **kwargs)


def molecule_graph(
    numbers: Int[np.ndarray, " atoms"],
    positions: Float[np.ndarray, "atoms 3"],
    basis: OrbitalBasis,
    *,
    hamiltonian: Float[np.ndarray, "n n"] | None = None,
    sample_id: int = -1,
    dtype: torch.dtype = torch.float32,
) -> HamiltonianGraph:
    """Graph of one molecule with all atom pairs; labels are cut when a Hamiltonian is given.

    Positions in angstrom, Hamiltonian in hartree and in the orbital order of the basis' files.
    """
    edge_index, reverse = complete_edges(len(numbers))
    graph = HamiltonianGraph(
        numbers=torch.from_numpy(numbers.astype(np.int64)),
        positions=torch.tensor(positions, dtype=dtype),
        edge_index=edge_index,
        reverse=reverse,
        sample_id=torch.tensor([sample_id]),
        num_nodes=len(numbers),
    )
    if hamiltonian is not None:
        matrix = torch.tensor(hamiltonian, dtype=dtype)
        graph.h_self, graph.h_edge = cut_blocks(matrix, numbers, basis)
    return graph


def collate(graphs: list[HamiltonianGraph]) -> Batch:
    """Put graphs together; atoms and edges keep their order inside each molecule."""
    return Batch.from_data_list(graphs)
