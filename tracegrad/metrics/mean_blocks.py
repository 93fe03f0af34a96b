"""The trivial predictor: the mean block of each species and of each pair of species."""

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader

from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.reduction import is_on_site, site_edges, sites
from tracegrad.metrics.hamiltonian import HamiltonianMAE
from tracegrad.model.network import HamiltonianPrediction


class MeanBlocks:
    """Predicts the mean on-site block of each species and the mean off-site block of each ordered pair of species.

    A useful network must have a smaller error. Pairs of species that do not occur in the data are predicted as zero.

    Args:
        basis: orbital basis of the blocks.
    """

    def __init__(self, basis: OrbitalBasis):
        self.basis = basis
        self.species = len(basis.elements)
        self._species = torch.full((len(basis.slots),), -1)
        self._species[torch.tensor(basis.elements)] = torch.arange(self.species)
        kinds = self.species**2 + self.species
        dtype = torch.complex128 if basis.spinful else torch.float64
        self._sums = torch.zeros(kinds, basis.dim, basis.dim, dtype=dtype)
        self._counts = torch.zeros(kinds, dtype=torch.float64)

    def fit(self, loader: DataLoader) -> "MeanBlocks":
        """Add the batches of labelled graphs of a loader to the means."""
        for graph in loader:
            for site in sites(graph):
                kind = self._kind(graph, site)
                self._sums.index_add_(0, kind, graph[f"h_{site}"].to(self._sums.dtype))
                self._counts += torch.bincount(kind, minlength=len(self._counts))
        return self

    def __call__(self, graph) -> HamiltonianPrediction:
        """The mean block of each item at each site of a graph."""
        means = self._sums / self._counts.clamp_min(1)[:, None, None]
        return HamiltonianPrediction({site: means[self._kind(graph, site)] for site in sites(graph)})

    def evaluate(self, loader: DataLoader) -> dict[str, Tensor]:
        """The metrics of `HamiltonianMAE` over a loader, in the unit of the basis."""
        metric = HamiltonianMAE(self.basis)
        for graph in loader:
            metric.update(self(graph), graph)
        return metric.compute()

    def _kind(self, graph, site: str) -> Int[Tensor, " items"]:
        """Row of the means: dst * species + src for off-site blocks, species^2 + dst for on-site ones."""
        dst, src = self._species[graph.numbers[site_edges(graph, site)]]
        return torch.where(is_on_site(graph, site), self.species**2 + dst, dst * self.species + src)
