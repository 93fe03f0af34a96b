"""The terms of the training loss: each returns one value for each sample of a batch."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import reduce
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from tracegrad.errors import ConfigError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.reduction import Masks, site_edges
from tracegrad.hamiltonian.traces import BlockTraces
from tracegrad.model.network import HamiltonianPrediction
from tracegrad.ops.block_errors.block_errors import block_errors


class LossTerm(nn.Module, ABC):
    """Base class of the terms. A term called x is logged as ``loss_x``, averaged over samples.

    Args:
        basis: orbital basis of the blocks.
        labels: computes the trace labels of blocks.
        weight: of the term in the loss.

    Attributes:
        masks: which matrix elements of the blocks exist.
        needs_traces: whether the term compares traces; networks without a trace decoder are trained without it.
        needs_overlap: whether the term needs the overlap: the fields ``s_self`` and ``s_edge`` of molecules, or
            ``s_edge`` and ``fermi_level`` (eV; NaN where it is unknown) of crystals.
    """

    needs_traces = False
    needs_overlap = False

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

    def of_all_samples(
        self, prediction: HamiltonianPrediction, graph
    ) -> tuple[Float[Tensor, " samples"], Bool[Tensor, " samples"] | None]:
        """The values, with zeros for samples without a meaning, and which have one; None: all.

        The number of samples with a meaning is a size that a GPU would have to tell the host, which `forward` waits
        for. Training calls this method, which a term may override to save that.
        """
        return self(prediction, graph), None


class HamiltonianTerm(LossTerm):
    """loss_Q: the error of H, averaged over the matrix elements of each sample.

    Args:
        measures: those of `MEASURES` that are added.
    """

    def __init__(
        self, basis: OrbitalBasis, labels: BlockTraces, weight: float = 1.0, *, measures: Sequence[str]
    ):
        super().__init__(basis, labels, weight)
        self.measures = tuple(measures)

    def forward(self, prediction: HamiltonianPrediction, graph) -> Float[Tensor, " samples"]:
        present = self.masks.orbitals(graph, next(iter(prediction.blocks.values())))
        totals = []
        for site, blocks in prediction.blocks.items():
            of_graph = site_edges(graph, site), graph.batch, graph.num_graphs
            totals.append(
                block_errors(blocks, graph[f"h_{site}"], present, present, *of_graph, self.measures)
            )
        errors, counts = _summed(totals)
        return errors / counts


class FirstStageTerm(HamiltonianTerm):
    """The error of H after the first stage of a network that corrects it, averaged like that of H.

    With it both stages are trained together, each towards H (``loss=deeph_joint``; our choice).

    Raises:
        ConfigError: a network without stages.
    """

    def forward(self, prediction: HamiltonianPrediction, graph) -> Float[Tensor, " samples"]:
        if not prediction.earlier:
            raise ConfigError(
                "the loss has a term of the first stage, but the network has a single stage; use another loss, or "
                "model=harmose with model.backbone.stage=joint"
            )
        return super().forward(HamiltonianPrediction(prediction.earlier[0]), graph)


class TraceTerm(LossTerm):
    """loss_T: the error of the traces, averaged over the traces of each sample that has any.

    They are the traces of what the network predicts: of H, or of H - H0 if it corrects an H0. A molecule of one atom
    has no pairs, and therefore no traces.

    Args:
        measure: one of `MEASURES`.
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

    def of_all_samples(
        self, prediction: HamiltonianPrediction, graph
    ) -> tuple[Float[Tensor, " samples"], Bool[Tensor, " samples"]]:
        return self._of_all_samples(prediction, graph, self.measure)

    def errors(self, prediction: HamiltonianPrediction, graph, measure: str) -> Float[Tensor, " supervised"]:
        """The same with any of `MEASURES`.

        "mae" is in the square of the unit of H, and without a unit with ``scale_labels="layer_norm"``.
        """
        values, supervised = self._of_all_samples(prediction, graph, measure)
        return values[supervised]

    def _of_all_samples(
        self, prediction: HamiltonianPrediction, graph, measure: str
    ) -> tuple[Float[Tensor, " samples"], Bool[Tensor, " samples"]]:
        totals = []
        for site, predicted in prediction.traces.items():
            blocks, ends = graph[f"h_{site}"], site_edges(graph, site)
            if f"h0_{site}" in graph:  # the network predicts H - H0, whose traces its features know
                blocks = blocks - graph[f"h0_{site}"]
            dtype = torch.promote_types(predicted.dtype, torch.float32)  # labels stay exact under autocast
            label = self.labels(blocks.to(dtype.to_complex() if blocks.is_complex() else dtype))
            if self.scale_labels == "layer_norm":
                label = _standardise(label, self.labels.mask(graph.numbers, ends).to(label.dtype))
            rows, columns = self.labels.masks(graph.numbers, label)
            predicted, label = (
                x.reshape(len(x), rows.shape[1], columns.shape[1]) for x in (predicted, label)
            )
            of_graph = ends, graph.batch, graph.num_graphs
            totals.append(block_errors(predicted, label, rows, columns, *of_graph, [measure]))
        errors, counts = _summed(totals)
        return errors / counts.clamp_min(1), counts > 0


def is_weight(value: object) -> bool:
    """Whether a value is a finite number >= 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def _summed(
    totals: Sequence[tuple[Float[Tensor, " samples"], Float[Tensor, " samples"]]],
) -> tuple[Float[Tensor, " samples"], Float[Tensor, " samples"]]:
    """Errors and numbers of elements, summed over sites."""
    errors, counts = zip(*totals, strict=True)
    return reduce(torch.add, errors), reduce(torch.add, counts)


def _standardise(
    label: Float[Tensor, "n labels"], mask: Float[Tensor, "n labels"]
) -> Float[Tensor, "n labels"]:
    """LayerNorm without parameters over the labels of each item; labels that do not exist count as zero."""
    return layer_norm(label * mask, label.shape[1:])
