"""The blocks that a network predicts for a crystal as the entries of a structure."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Inexact, Int64

from tracegrad.data.crystals.structure import Structure
from tracegrad.model.network import HamiltonianModel


def entries_of(
    model: HamiltonianModel, structure: Structure, blocks: Sequence[np.ndarray]
) -> Inexact[np.ndarray, " entries"]:
    """Entries of a hermitian H, or of its derivative, in the order of the files.

    Args:
        model: the network that has predicted the blocks.
        structure: with the edges.
        blocks: of the edges.
    """
    made = list(blocks)
    if not hasattr(model.backbone, "hermitian"):  # others average both blocks of a pair themselves
        made = hermitian(made, structure.edges)
    dtype = np.complex128 if structure.spinful else np.float64
    return np.concatenate([block.ravel() for block in made]).astype(dtype)


def hermitian(blocks: list[np.ndarray], edges: Int64[np.ndarray, "edges 5"]) -> list[np.ndarray]:
    """The mean of each block H(R, i, j) and the adjoint of H(-R, j, i), which a network predicts independently.

    Args:
        blocks: of the edges.
        edges: rows (Rx, Ry, Rz, i, j), in any order, with the reverse of every edge among them.
    """
    index_of = {tuple(edge): index for index, edge in enumerate(edges.tolist())}
    reverse = [index_of[-x, -y, -z, j, i] for x, y, z, i, j in edges.tolist()]
    return [(block + blocks[k].conj().T) / 2 for block, k in zip(blocks, reverse, strict=True)]
