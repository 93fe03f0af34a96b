"""The term of the loss that knows the overlap S: the error of H up to the zero of energy."""

import torch
from jaxtyping import Float
from torch import Tensor

from tracegrad.hamiltonian.reduction import site_edges, site_sums
from tracegrad.model.network import HamiltonianPrediction
from tracegrad.nn.interface import Blocks
from tracegrad.training.loss_terms import HamiltonianTerm


class ShiftedTerm(HamiltonianTerm):
    """loss_Q up to the energy zero: the error of H - mu S with the best mu of each sample.

    H and H + mu S have the same orbitals and density. mu minimises sum |dH - mu S|^2:

        mu = sum Re(dH S*) / sum |S|^2,

    and the gradient takes its dependence on H into account.
    """

    needs_overlap = True

    def forward(self, prediction: HamiltonianPrediction, graph) -> Float[Tensor, " samples"]:
        shift = best_shift(prediction.blocks, graph)
        shifted: Blocks = {}
        for site, blocks in prediction.blocks.items():
            of_block = shift[graph.batch[site_edges(graph, site)[0]]][:, None, None]
            shifted[site] = blocks - of_block * graph[f"s_{site}"]
        return super().forward(HamiltonianPrediction(shifted), graph)


def best_shift(blocks: Blocks, graph) -> Float[Tensor, " samples"]:
    """The mu of each sample that minimises sum |H_predicted - H - mu S|^2, in the unit of H."""
    projected, norms = [], []
    for site, values in blocks.items():
        overlap = graph[f"s_{site}"]
        projected.append(site_sums(((values - graph[f"h_{site}"]).real * overlap.real), graph, site))
        norms.append(site_sums(overlap.real**2, graph, site))
    return torch.stack(projected).sum(0) / torch.stack(norms).sum(0)
