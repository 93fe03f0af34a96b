"""The training loss, Eqs. 7 and 8 of the TraceGrad paper."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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

# Lower bound of loss_T in Eq. 8, where it is a denominator.
SMALLEST_LOSS = 1e-12


@dataclass
class LossTerms:
    """The loss of a batch and its parts; ``loss_t`` and ``mu`` are None without trace supervision.

    If several processes share a batch, ``total``, ``loss_h`` and ``loss_t`` are the contributions of this process,
    whose sum over the processes is the value of the batch; ``mu`` and ``logs`` are values of the whole batch.
    """

    total: Float[Tensor, ""]
    loss_h: Float[Tensor, ""]
    per_sample: Float[Tensor, " samples"]  # loss_Q of each sample of this process
    traces_per_sample: Float[Tensor, " _"]  # loss_T of each sample that has traces
    logs: dict[str, Tensor]  # loss, loss_h and, with traces, loss_t and mu
    loss_t: Float[Tensor, ""] | None = None
    mu: Float[Tensor, ""] | None = None


def no_reduction(sums: Tensor) -> Tensor:
    """The sum over processes if there is only one."""
    return sums


class HamiltonianLoss(nn.Module):
    """loss_Q + mu loss_T with mu = lambda stop_gradient(loss_Q / loss_T).

    Each term is first averaged over the matrix elements (or traces) of a sample and then over samples, so that
    neither padding nor the size of a molecule or crystal changes its weight.

    Args:
        basis: orbital basis of the blocks.
        traces: computes the trace labels; None: `BlockTraces` of this basis.
        h: error measures of H that are added: |dH|^2 ("mse"), |dH| ("mae"). The paper uses MSE + MAE for molecules
            (QH9) and MSE for crystals.
        t: error measure of the traces (the paper uses MAE).
        trace_weight: lambda of Eq. 8 (the paper uses 0.2 for molecules and 0.3 for crystals).
        fixed_weights: constant weights of loss_Q and loss_T in place of 1 and mu (a later variant of the authors'
            code uses 0.8 and 0.2).
        scale_labels: "none" (the paper) or "layer_norm": the trace labels of each pair are standardised, as in the
            authors' public code.

    Raises:
        ConfigError: an unknown error measure or scaling, or weights that are not finite and >= 0.
    """

    def __init__(
        self,
        basis: OrbitalBasis,
        traces: BlockTraces | None = None,
        h: Sequence[str] = ("mse", "mae"),
        t: str = "mae",
        trace_weight: float = 0.2,
        fixed_weights: Sequence[float] | None = None,
        scale_labels: Literal["none", "layer_norm"] = "none",
    ):
        super().__init__()
        unknown = sorted({*h, t} - ERRORS.keys())
        if unknown or not h:
            raise ConfigError(
                f"unknown error measures {unknown} in loss.h or loss.t; choose from {list(ERRORS)}"
            )
        if scale_labels not in ("none", "layer_norm"):
            raise ConfigError(f"loss.scale_labels is {scale_labels!r}; choose none or layer_norm")
        if not _is_weight(trace_weight):
            raise ConfigError(f"loss.trace_weight is {trace_weight!r}; give a finite number >= 0")
        if fixed_weights is not None and not (
            isinstance(fixed_weights, Sequence)
            and len(fixed_weights) == 2
            and all(map(_is_weight, fixed_weights))
        ):
            raise ConfigError(
                f"loss.fixed_weights is {fixed_weights}; it needs two numbers, finite and >= 0, or null"
            )
        self.traces = traces or BlockTraces(basis)
        self.h, self.t = tuple(h), t
        self.trace_weight = trace_weight
        self.fixed_weights = fixed_weights
        self.scale_labels = scale_labels
        self._masks = Masks(basis)

    def forward(
        self, prediction: HamiltonianPrediction, graph, sum_ranks: Callable[[Tensor], Tensor] = no_reduction
    ) -> LossTerms:
        """Loss of a batch.

        Args:
            prediction: output of the network for the batch.
            graph: the batch, with the labels ``h_self`` and ``h_edge`` of the predicted sites.
            sum_ranks: sums a tensor over the processes that share the batch.
        """
        per_sample = self._hamiltonian_losses(prediction, graph)
        traces = self.trace_errors(prediction, graph, self.t) if prediction.traces else per_sample[:0]
        sums = (per_sample.sum(), traces.sum())
        # float64 represents the number of samples of any batch exactly.
        detached = [part.detach().double() for part in sums]
        h, t, samples, supervised = sum_ranks(torch.stack([*detached, _count(per_sample), _count(traces)]))
        h, supervised = h / samples, supervised.clamp_min(1)
        loss_h = sums[0] / samples.to(per_sample)
        if not prediction.traces:
            logs = {"loss": h, "loss_h": h}
            return LossTerms(loss_h, loss_h, per_sample.detach(), traces.detach(), logs)
        t, loss_t = t / supervised, sums[1] / supervised.to(traces)
        weight, mu = self.weights(h, t)
        logs = {"loss": weight * h + mu * t, "loss_h": h, "loss_t": t, "mu": mu}
        mu = mu.to(loss_t)
        total = weight * loss_h + mu * loss_t
        return LossTerms(total, loss_h, per_sample.detach(), traces.detach(), logs, loss_t, mu)

    def weights(self, loss_h: Float[Tensor, ""], loss_t: Float[Tensor, ""]) -> tuple[float, Tensor]:
        """Weights of loss_Q and loss_T (Eq. 8, or the fixed ones) for their detached values in a batch."""
        if self.fixed_weights is not None:
            weight, mu = self.fixed_weights
            return weight, loss_t.new_tensor(mu)
        return 1.0, self.trace_weight * loss_h / loss_t.clamp_min(SMALLEST_LOSS)

    def _hamiltonian_losses(self, prediction: HamiltonianPrediction, graph) -> Float[Tensor, " samples"]:
        count = torch.stack(
            [self._masks.counts(graph, site, x) for site, x in prediction.blocks.items()]
        ).sum(0)
        per_sample = torch.zeros_like(count)
        for site, blocks in prediction.blocks.items():
            orbital_mask, block_atoms = self._masks.orbitals(graph, blocks), site_edges(graph, site)
            for sums in block_errors(blocks, graph[f"h_{site}"], orbital_mask, block_atoms, self.h):
                per_sample = per_sample + site_sums(sums, graph, site) / count
        return per_sample

    def trace_errors(
        self, prediction: HamiltonianPrediction, graph, measure: str
    ) -> Float[Tensor, " supervised"]:
        """Mean error of the traces of each sample, without padding.

        Samples without traces are left out: a molecule of one atom has no pairs.

        Args:
            prediction: output of the network, with traces.
            graph: the batch, with labels.
            measure: a key of `ERRORS`. "mae" is in the square of the unit of H, and without a unit with
                ``scale_labels="layer_norm"``.
        """
        sums, counts = [], []
        for site, predicted in prediction.traces.items():
            blocks = graph[f"h_{site}"]
            dtype = torch.promote_types(predicted.dtype, torch.float32)  # labels stay exact under autocast
            label = self.traces(blocks.to(dtype.to_complex() if blocks.is_complex() else dtype))
            mask = self.traces.mask(graph.numbers, site_edges(graph, site)).to(label.dtype)
            if self.scale_labels == "layer_norm":
                label = _standardise(label, mask)
            sums.append(site_sums(ERRORS[measure]((predicted - label) * mask), graph, site))
            counts.append(site_sums(mask, graph, site))
        total, count = torch.stack(sums).sum(0), torch.stack(counts).sum(0)
        supervised = count > 0
        return total[supervised] / count[supervised]


def _count(values: Tensor) -> Tensor:
    return torch.tensor(len(values), dtype=torch.float64, device=values.device)


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def _standardise(
    label: Float[Tensor, "n labels"], mask: Float[Tensor, "n labels"]
) -> Float[Tensor, "n labels"]:
    """LayerNorm without parameters over the labels of each item; labels that do not exist count as zero."""
    return layer_norm(label * mask, label.shape[1:])
