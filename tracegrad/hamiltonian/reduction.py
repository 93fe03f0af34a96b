"""Masks and sums over the blocks of each sample, which losses and metrics share.

Blocks belong to sites, see `tracegrad.hamiltonian.graph`: "self" has a block for each atom, "edge" one for each edge.
"""

import torch
from jaxtyping import Bool, Float, Inexact, Int
from torch import Tensor

from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.numerics.constants import Constant


def sites(graph) -> tuple[str, ...]:
    """Sites of a graph: "self" and "edge" of molecules, "edge" of crystals."""
    return ("edge",) if "cells" in graph else ("self", "edge")


def site_edges(graph, site: str) -> Int[Tensor, "2 items"]:
    """Atom of the rows and atom of the columns of each block of a site."""
    if site == "edge":
        return graph.edge_index
    return torch.arange(len(graph.numbers), device=graph.numbers.device).expand(2, -1)


def is_on_site(graph, site: str) -> Bool[Tensor, " items"]:
    """Whether each block of a site belongs to an atom and itself, not to an atom and its periodic image."""
    dst, src = site_edges(graph, site)
    if site == "edge" and "cells" in graph:
        return (dst == src) & (graph.cells == 0).all(1)
    return dst == src


def site_sums(values: Float[Tensor, "items *d"], graph, site: str) -> Float[Tensor, " samples"]:
    """Sum of ``values`` over the blocks of each sample and over all dimensions but the first."""
    per_item = values.flatten(1).sum(1) if values.ndim > 1 else values
    sample = graph.batch.index_select(0, site_edges(graph, site)[0])
    return per_item.new_zeros(graph.num_graphs).index_add(0, sample, per_item)


class Masks:
    """Masks that are 1 for matrix elements that exist and 0 for padding, for batches of graphs."""

    def __init__(self, basis: OrbitalBasis):
        self._orbitals = Constant(torch.from_numpy(basis.mask))

    def elements(self, graph, site: str, like: Inexact[Tensor, "..."]) -> Float[Tensor, "items dim dim"]:
        """Mask of the elements of each block of a site, in the real dtype of ``like``."""
        present = self.orbitals(graph, like)
        rows, columns = site_edges(graph, site)
        return present.index_select(0, rows)[:, :, None] * present.index_select(0, columns)[:, None, :]

    def orbitals(self, graph, like: Inexact[Tensor, "..."]) -> Float[Tensor, "atoms dim"]:
        """Mask of the union slots of each atom, in the real dtype of ``like``."""
        return self._orbitals(like.real)[graph.numbers]
