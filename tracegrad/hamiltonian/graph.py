"""The fields of a graph: one molecule or crystal with its labels, or a batch of them.

| field          | shape, dtype            | meaning                                                           |
|----------------|-------------------------|-------------------------------------------------------------------|
| ``numbers``    | (atoms,) int64          | atomic numbers                                                    |
| ``spin``       | (atoms,) int64          | collinear basis: position in ``SPINS`` of the H that is meant     |
| ``positions``  | (atoms, 3) float        | angstrom                                                          |
| ``edge_index`` | (2, edges) int64        | row 0 destination, row 1 source (see `blocks`)                    |
| ``reverse``    | (edges,) int64          | position of the reversed edge                                     |
| ``vectors``    | (edges, 3) float        | crystals: from destination to source in its cell, angstrom        |
| ``cells``      | (edges, 3) int64        | crystals: cell R of the source                                    |
| ``h_self``     | (atoms, dim, dim) float | molecules: on-site blocks of H in the union layout; optional      |
| ``h_edge``     | (edges, dim, dim)       | blocks of the edges in the union layout, complex with spin; optional |
| ``s_self``, ``s_edge`` | as H            | blocks of the overlap S; optional                              |
| ``h0_self``, ``h0_edge`` | as H          | blocks of H0, see `tracegrad.hamiltonian.h0`; optional               |
| ``sample_id``  | (1,) int64              | position in the database                                          |
| ``batch``      | (atoms,) int64          | sample of each atom; set when graphs are batched                  |

Blocks belong to *sites*: "self" for the atoms, "edge" for the edges. A molecule has both; all blocks of a crystal,
on-site ones included, belong to edges. Energies are in the unit of the basis (`OrbitalBasis.unit`).
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Int64, Shaped
from torch_geometric.data import Batch, Data

from tracegrad.errors import DataError
from tracegrad.hamiltonian.basis import SPINS, OrbitalBasis
from tracegrad.hamiltonian.blocks import complete_edges, cut_blocks, pad_blocks


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
    matrices: Mapping[str, Float[np.ndarray, "n n"]] | None = None,
    sample_id: int = -1,
    dtype: torch.dtype = torch.float32,
) -> HamiltonianGraph:
    """Graph of one molecule with all pairs of atoms, labelled if its Hamiltonian is passed.

    Args:
        numbers: atomic numbers.
        positions: angstrom.
        basis: orbital basis.
        hamiltonian: hartree, in the orbital order of the files of the basis.
        matrices: further matrices in this order by the name of their fields: "s", "h0".
        sample_id: position in the database.
        dtype: dtype of positions and labels.
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
    labels = {} if hamiltonian is None else {"h": hamiltonian}
    for name, matrix in (labels | dict(matrices or {})).items():
        blocks = cut_blocks(torch.tensor(matrix, dtype=dtype), numbers, basis)
        graph[f"{name}_self"], graph[f"{name}_edge"] = blocks
    return graph


def crystal_graph(
    numbers: Int[np.ndarray, " atoms"],
    positions: Float[np.ndarray, "atoms 3"],
    lattice: Float[np.ndarray, "3 3"],
    edges: Int[np.ndarray, "edges 5"],
    basis: OrbitalBasis,
    *,
    entries: Shaped[np.ndarray, " entries"] | None = None,
    h0: Shaped[np.ndarray, " entries"] | None = None,
    spin: str | None = None,
    sample_id: int = -1,
    dtype: torch.dtype = torch.float32,
) -> HamiltonianGraph:
    """Graph of one crystal with these edges, labelled if the entries of its Hamiltonian are passed.

    Args:
        numbers: atomic numbers.
        positions: angstrom.
        lattice: rows are lattice vectors, angstrom.
        edges: rows [Rx, Ry, Rz, i, j], atoms counted from 0: the pair of i in cell 0 and j in cell R.
        basis: orbital basis.
        entries: blocks of H as in the files, in the order of the edges, see `blocks`.
        h0: the same of H0, see `tracegrad.hamiltonian.h0`.
        spin: one of ``SPINS`` for a collinear basis, else None.
        sample_id: position in the database.
        dtype: real dtype of positions and labels; the labels of a spinful basis are complex.

    Raises:
        DataError: an edge occurs twice, or its reversed edge is missing; the spin does not fit the basis.
    """
    if spin not in basis.channels:
        raise DataError(
            f"spin is {spin}, but H of the basis {basis.name} has "
            + ("two spins; give up or down" if basis.collinear else "no spin to choose; leave it out")
        )
    cells, edge_index = edges[:, :3].astype(np.int64), np.ascontiguousarray(edges[:, 3:].T).astype(np.int64)
    dst, src = edge_index
    vectors = positions[src] + cells @ lattice - positions[dst]
    graph = HamiltonianGraph(
        numbers=torch.from_numpy(numbers.astype(np.int64)),
        positions=torch.tensor(positions, dtype=dtype),
        edge_index=torch.from_numpy(edge_index),
        reverse=torch.from_numpy(reversed_edges(cells, edge_index)),
        vectors=torch.tensor(vectors, dtype=dtype),
        cells=torch.from_numpy(cells),
        sample_id=torch.tensor([sample_id]),
        num_nodes=len(numbers),
    )
    if spin is not None:
        graph.spin = torch.full((len(numbers),), SPINS.index(spin))
    for field, matrix in (("h_edge", entries), ("h0_edge", h0)):
        if matrix is not None:
            blocks = torch.from_numpy(pad_blocks(matrix, edge_index, numbers, basis))
            graph[field] = blocks.to(dtype.to_complex() if basis.spinful else dtype)
    return graph


def reversed_edges(
    cells: Int64[np.ndarray, "edges 3"], edge_index: Int64[np.ndarray, "2 edges"]
) -> Int64[np.ndarray, " edges"]:
    """Position of (-R, j, i) for every edge (R, i, j).

    Raises:
        DataError: an edge occurs twice, or its reversed edge is missing.
    """
    # One number for each edge, because sorting numbers is several times faster than sorting rows.
    lowest, highest = cells.min(axis=0, initial=0).tolist(), cells.max(axis=0, initial=0).tolist()
    reach = [max(-low, high) for low, high in zip(lowest, highest, strict=True)]
    sizes = [2 * most + 1 for most in reach] + [int(edge_index.max(initial=0)) + 1] * 2
    if math.prod(sizes) > np.iinfo(np.int64).max:
        raise DataError(f"edges reach cells as far as {reach}; such edges cannot be part of a crystal")
    edges = np.concatenate([cells, edge_index.T], axis=1)
    mirrored = np.concatenate([-cells, edge_index[::-1].T], axis=1)
    offset = np.array([*reach, 0, 0])
    keys, mirrored_keys = (np.ravel_multi_index((rows + offset).T, sizes) for rows in (edges, mirrored))
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    repeated = np.flatnonzero(ordered[1:] == ordered[:-1])
    if len(repeated):
        edge = edges[order[repeated[0]]].tolist()
        raise DataError(
            f"the edge [Rx, Ry, Rz, i, j] = {edge} (atoms counted from 0) occurs twice; give it once"
        )
    reverse = order[np.minimum(np.searchsorted(ordered, mirrored_keys), len(order) - 1)]
    lone = np.flatnonzero(keys[reverse] != mirrored_keys)
    if len(lone):
        raise DataError(
            f"the edge [Rx, Ry, Rz, i, j] = {edges[lone[0]].tolist()} (atoms counted from 0) has no partner "
            f"{mirrored[lone[0]].tolist()}; H(R, i, j) and H(-R, j, i) are needed together"
        )
    return reverse


def collate(graphs: list[HamiltonianGraph]) -> Batch:
    """Batch of graphs; atoms and edges keep their order within each graph."""
    return Batch.from_data_list(graphs)
