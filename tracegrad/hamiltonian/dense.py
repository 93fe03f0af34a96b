"""Dense matrices of the samples of a batch from blocks of pairs, differentiable; of crystals at a point k.

    H(k)[a, b] = sum over the cells R of exp(2 pi i k.R) block(R, a, b)[s_a, s_b],

where s_a is the union slot of orbital a. Molecules have no cells, and k = 0.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Inexact
from torch import Tensor

from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.reduction import site_edges, sites
from tracegrad.numerics.constants import Constant


class DenseMatrices:
    """Makes dense matrices of the samples of a batch; orbitals are in the order of the files.

    Args:
        basis: orbital basis of the blocks.
    """

    def __init__(self, basis: OrbitalBasis):
        self._slots = Constant(torch.from_numpy(basis.slots).double())

    def __call__(
        self, blocks: Mapping[str, Inexact[Tensor, "_ dim dim"]], graph, k: Sequence[float] = (0.0, 0.0, 0.0)
    ) -> list[Inexact[Tensor, "_ _"]]:
        """The matrix of each sample, real if the blocks are real and k = 0.

        Args:
            blocks: blocks of each site of the graph.
            graph: the batch.
            k: fractions of the reciprocal lattice vectors.
        """
        slots = self._slots(graph.positions.double())[graph.numbers].long()  # [atoms, dim]
        sizes = (slots >= 0).sum(1)
        orbitals = torch.zeros(graph.num_graphs, dtype=torch.long, device=sizes.device)
        orbitals = orbitals.index_add(0, graph.batch, sizes)
        ends = sizes.cumsum(0)
        first = ends - sizes - (orbitals.cumsum(0) - orbitals)[graph.batch]  # orbital of the sample
        areas = orbitals**2
        starts = areas.cumsum(0) - areas
        total = int(areas.sum())
        phased = any(k)
        flat = None
        for site in sites(graph):
            values, (dst, src) = blocks[site], site_edges(graph, site)
            if phased and "cells" in graph:
                angle = 2 * torch.pi * graph.cells.to(values.real.dtype) @ values.real.new_tensor(k)
                values = values * torch.polar(torch.ones_like(angle), angle)[:, None, None]
            sample = graph.batch[dst]
            rows = (first[dst][:, None] + slots[dst])[:, :, None]
            columns = (first[src][:, None] + slots[src])[:, None, :]
            index = starts[sample][:, None, None] + rows * orbitals[sample][:, None, None] + columns
            present = (slots[dst] >= 0)[:, :, None] & (slots[src] >= 0)[:, None, :]
            if flat is None:
                flat = values.new_zeros(total + 1)  # the last one collects the padding
            flat = flat.index_add(0, index.where(present, total).flatten(), values.flatten())
        assert flat is not None
        sides = orbitals.tolist()
        parts = flat[:-1].split([n * n for n in sides])
        return [part.view(n, n) for part, n in zip(parts, sides, strict=True)]
