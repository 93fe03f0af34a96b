"""One list of pairs of atoms for the matrices of a structure, where files have blocks of one that another lacks."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int64, Shaped

from tracegrad.data.crystals.structure import basis_of_matrix, edge_order
from tracegrad.hamiltonian.blocks import block_starts


def with_common_pairs(
    matrices: Mapping[str, tuple[Int64[np.ndarray, "pairs 5"], Shaped[np.ndarray, " entries"]]],
    numbers: Int64[np.ndarray, " atoms"],
    shells: Mapping[int, tuple[int, ...]],
    spinful: bool,
) -> tuple[Int64[np.ndarray, "all_pairs 5"], dict[str, Shaped[np.ndarray, " all_entries"]]]:
    """All edges that any of the matrices has, and its entries for them, with zeros for the blocks that it lacks.

    Args:
        matrices: edges in the order of `edge_order`, and entries, of any of `MATRICES`.
        numbers: atomic numbers.
        shells: degrees of the shells of each element.
        spinful: whether the Hamiltonian has spin blocks.
    """
    lists = [edges for edges, _ in matrices.values()]
    if all(np.array_equal(edges, lists[0]) for edges in lists):
        return lists[0], {matrix: entries for matrix, (_, entries) in matrices.items()}
    together = np.unique(np.concatenate(lists), axis=0)
    together = together[edge_order(together)]
    place = {tuple(edge): n for n, edge in enumerate(together.tolist())}
    common = {}
    for matrix, (edges, entries) in matrices.items():
        basis = basis_of_matrix(matrix, shells, spinful)
        starts = block_starts(together[:, 3:].T, numbers, basis)
        common[matrix] = np.zeros(starts[-1], dtype=entries.dtype)
        present = np.zeros(len(together), dtype=bool)
        present[[place[tuple(edge)] for edge in edges.tolist()]] = True
        # Both lists are in the same order, so that the blocks follow one another as before.
        common[matrix][np.repeat(present, np.diff(starts))] = entries
    return together, common
