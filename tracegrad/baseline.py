"""The trivial predictor: the mean block of each species or pair of species."""

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tracegrad.basis import OrbitalBasis
from tracegrad.metrics.hamiltonian import HamiltonianMAE
from tracegrad.model import Prediction


class MeanBlocks:
    """Predicts the mean on-site block of the species and the mean pair block of the ordered species pair.

    Any network must beat it; pairs of species that were never seen are predicted as zero.
    """

    def __init__(self, basis: OrbitalBasis):
        self.basis = basis
        self.elements = len(basis.slots)
        shape = (self.elements, basis.dim, basis.dim)
        self._sum_self = torch.zeros(shape, dtype=torch.float64)
        self._sum_pair = torch.zeros(self.elements**2, *shape[1:], dtype=torch.float64)
        self._count_self = torch.zeros(self.elements, dtype=torch.float64)
        self._count_pair = torch.zeros(self.elements**2, dtype=torch.float64)

    def fit(self, loader: DataLoader) -> "MeanBlocks":
        """Accumulate the means over batches of labelled graphs."""
        for graph in loader:
            pair = self._pair(graph)
            self._sum_self.index_add_(0, graph.numbers, graph.h_self.double())
            self._sum_pair.index_add_(0, pair, graph.h_edge.double())
            self._count_self += torch.bincount(graph.numbers, minlength=self.elements)
            self._count_pair += torch.bincount(pair, minlength=self.elements**2)
        return self

    def __call__(self, graph) -> Prediction:
        """Mean blocks for the atoms and pairs of a graph."""
        on_site = self._sum_self / self._count_self.clamp_min(1)[:, None, None]
        pairs = self._sum_pair / self._count_pair.clamp_min(1)[:, None, None]
        return Prediction(on_site[graph.numbers], pairs[self._pair(graph)])

    def evaluate(self, loader: DataLoader) -> dict[str, Tensor]:
        """The metrics of `HamiltonianMAE` (hartree)."""
        metric = HamiltonianMAE(self.basis)
        for graph in loader:
            metric.update(self(graph), graph)
        return metric.compute()

    def _pair(self, graph) -> Tensor:
        dst, src = graph.edge_index
        return graph.numbers[dst] * self.elements + graph.numbers[src]
