"""Sums over the blocks of each molecule, the common ground of losses and metrics."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tracegrad.basis import OrbitalBasis
from tracegrad.nn.constants import Constant


@dataclass
class BlockMasks:
    """1 where a union slot (or shell) exists for the species of a block, else 0."""

    on_site: Float[Tensor, "atoms d d"]
    pairs: Float[Tensor, "edges d d"]


class Masks:
    """Masks of elements and of basic blocks for the molecules of a batch."""

    def __init__(self, basis: OrbitalBasis):
        self._orbitals = Constant(torch.from_numpy(basis.mask))
        self._shells = Constant(torch.from_numpy(basis.shell_mask))

    def elements(self, graph, like: Tensor) -> BlockMasks:
        """Masks of matrix elements, in the dtype of ``like``."""
        return self._outer(self._orbitals(like)[graph.numbers], graph)

    def shells(self, graph, like: Tensor) -> BlockMasks:
        """Masks of basic blocks (traces), in the dtype of ``like``."""
        return self._outer(self._shells(like)[graph.numbers], graph)

    @staticmethod
    def _outer(present: Float[Tensor, "atoms d"], graph) -> BlockMasks:
        dst, src = graph.edge_index
        return BlockMasks(
            present[:, :, None] * present[:, None, :],
            present.index_select(0, dst)[:, :, None] * present.index_select(0, src)[:, None, :],
        )


def atom_sums(values: Float[Tensor, "atoms *d"], graph) -> Float[Tensor, " molecules"]:
    """Sum of ``values`` over all but the first dimension and over the atoms of each molecule."""
    return _sums(values, graph.batch, graph.num_graphs)


def edge_sums(values: Float[Tensor, "edges *d"], graph) -> Float[Tensor, " molecules"]:
    """Sum of ``values`` over all but the first dimension and over the edges of each molecule."""
    return _sums(values, graph.batch.index_select(0, graph.edge_index[0]), graph.num_graphs)


def _sums(values: Tensor, molecule: Tensor, molecules: int) -> Float[Tensor, " molecules"]:
    per_item = values.flatten(1).sum(1)
    return per_item.new_zeros(molecules).index_add(0, molecule, per_item)
