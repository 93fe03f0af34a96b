"""The terms of the training loss: each returns one value for each sample of a batch."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from tracegrad.errors import ConfigError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.block_errors import ERRORS, block_errors
from tracegrad.hamiltonian.reduction import Masks, site_edges, site_sums
from tracegrad.hamiltonian.traces import BlockTraces
from tracegrad.model.network import HamiltonianPrediction


class LossTerm(nn.Module, ABC):
    """Base class of the terms. A term called x is logged as ``loss_x``, averaged over samples.

    Args:
        basis: orbital basis of the blocks.
        labels: computes the trace labels of blocks.
        weight: of the term in the loss.

    Attributes:
        masks: which matrix elements of the blocks exist.
        needs_traces: whether the term compares traces; networks without a trace decoder are trained without it.
    """

    needs_traces = False

    def __init__(self, basis: OrbitalBasis, labels: BlockTraces, weight: float = 1.0):
        super().__init__()
        if not is_weight(weight):
            raise ConfigError(
                f"the weight of the loss term {type(self).__name__} is {weight!r}; give a finite number >= 0"
            )
        self.basis, self.labels, self.weight = basis, labels, weight
        self.masks = Masks(basis)

    @abstractmethod
    def forward(self, prediction: HamiltonianPrediction, graph) -> Float[Tensor, " samples"]:
        """Value of each sample, averaged over what the sample has, without padding.

        Samples for which the term has no meaning are left out, so that the result may be shorter than the batch.

        Args:
            prediction: output of the network for a batch.
            graph: the batch, with the labels ``h_self`` and ``h_edge`` of the predicted sites.
        """


class HamiltonianTerm(LossTerm):
    """loss_Q: the error of H, averaged over the matrix elements of each sample.

    Args:
        measures: keys of `ERRORS`, whose errors are added.
    """

    def __init__(
        self, basis: OrbitalBasis, labels: BlockTraces, weight: float = 1.0, *, measures: Sequence[str]
    ):
        super().__init__(basis, labels, weight)
        self.measures = tuple(measures)

    def forward(self, prediction: HamiltonianPrediction, graph) -> Float[Tensor, " samples"]:
        count = torch.stack([self.masks.counts(graph, site, x) for site, x in prediction.blocks.items()]).sum(
            0
        )
        per_sample = torch.zeros_like(count)
        for site, blocks in prediction.blocks.items():
            orbital_mask, block_atoms = self.masks.orbitals(graph, blocks), site_edges(graph, site)
            for sums in block_errors(blocks, graph[f"h_{site}"], orbital_mask, block_atoms, self.measures):
                per_sample = per_sample + site_sums(sums, graph, site) / count
        return per_sample


class TraceTerm(LossTerm):
    """loss_T: the error of the traces, averaged over the traces of each sample that has any.

    A molecule of one atom has no pairs, and therefore no traces.

    Args:
        measure: a key of `ERRORS`.
        scale_labels: "none" or "layer_norm": the trace labels of each pair are standardised.
    """

    needs_traces = True

    def __init__(
        self,
        basis: OrbitalBasis,
        labels: BlockTraces,
        weight: float = 1.0,
        *,
        measure: str = "mae",
        scale_labels: Literal["none", "layer_norm"] = "none",
    ):
        super().__init__(basis, labels, weight)
        self.measure, self.scale_labels = measure, scale_labels

    def forward(self, prediction: HamiltonianPrediction, graph) -> Float[Tensor, " supervised"]:
        return self.errors(prediction, graph, self.measure)

    def errors(self, prediction: HamiltonianPrediction, graph, measure: str) -> Float[Tensor, " supervised"]:
        """The same with any measure, a key of `ERRORS`.

        "mae" is in the square of the unit of H, and without a unit with ``scale_labels="layer_norm"``.
        """
        sums, counts = [], []
        for site, predicted in prediction.traces.items():
            blocks = graph[f"h_{site}"]
            dtype = torch.promote_types(predicted.dtype, torch.float32)  # labels stay exact under autocast
            label = self.labels(blocks.to(dtype.to_complex() if blocks.is_complex() else dtype))
            mask = self.labels.mask(graph.numbers, site_edges(graph, site)).to(label.dtype)
            if self.scale_labels == "layer_norm":
                label = _standardise(label, mask)
            sums.append(site_sums(ERRORS[measure]((predicted - label) * mask), graph, site))
            counts.append(site_sums(mask, graph, site))
        total, count = torch.stack(sums).sum(0), torch.stack(counts).sum(0)
        supervised = count > 0
        return total[supervised] / count[supervised]


def is_weight(value: object) -> bool:
    """Whether a value is a finite number >= 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def _standardise(
    label: Float[Tensor, "n labels"], mask: Float[Tensor, "n labels"]
) -> Float[Tensor, "n labels"]:
    """LayerNorm without parameters over the labels of each item; labels that do not exist count as zero."""
    return layer_norm(label * mask, label.shape[1:])
