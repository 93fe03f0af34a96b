"""The training loss of Eqs. 7-8."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from tracegrad.basis import OrbitalBasis
from tracegrad.blocks import block_traces
from tracegrad.errors import ConfigError
from tracegrad.model import Prediction
from tracegrad.reduction import BlockMasks, Masks, atom_sums, edge_sums

ERRORS = {"mse": torch.square, "mae": torch.abs}
# loss_T below this counts as zero in Eq. 8, where it stands in a denominator.
SMALLEST_LOSS = 1e-12


@dataclass
class LossTerms:
    """The total and its parts (scalars); ``loss_t`` and ``mu`` are None without trace supervision.

    ``per_molecule`` is the H part of each molecule, for messages about single samples.
    """

    total: Float[Tensor, ""]
    loss_h: Float[Tensor, ""]
    per_molecule: Float[Tensor, " molecules"]
    loss_t: Float[Tensor, ""] | None = None
    mu: Float[Tensor, ""] | None = None


class HamiltonianLoss(nn.Module):
    """loss_Q + mu loss_T with mu = lambda stop_gradient(loss_Q / loss_T).

    Every term is a mean over molecules of the mean over a molecule's own matrix elements (or basic blocks), so
    that padding and molecule sizes do not weigh.

    Args:
        basis: orbital basis of the blocks.
        h: error measures of H that are added up (the paper: MSE + MAE for QH9).
        t: error measure of the traces (the paper: MAE).
        trace_weight: lambda of Eq. 8 (0.2 for molecules).
        fixed_weights: weights of loss_Q and loss_T in place of 1 and mu (a later variant of the authors' code
            uses 0.8 and 0.2).
        scale_labels: "none" (the paper) or "layer_norm": standardise the labels of each pair over its basic
            blocks, as the authors' public code does.
    """

    def __init__(
        self,
        basis: OrbitalBasis,
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
        self.basis = basis
        self.h, self.t = tuple(h), t
        self.trace_weight = trace_weight
        self.fixed_weights = fixed_weights
        self.scale_labels = scale_labels
        self._masks = Masks(basis)

    def forward(self, prediction: Prediction, graph) -> LossTerms:
        """Loss of a batch whose graphs carry ``h_self`` and ``h_edge``."""
        masks = self._masks.elements(graph, prediction.pairs)
        count = atom_sums(masks.on_site, graph) + edge_sums(masks.pairs, graph)
        difference = BlockMasks(
            (prediction.on_site - graph.h_self) * masks.on_site,
            (prediction.pairs - graph.h_edge) * masks.pairs,
        )
        per_molecule = torch.zeros_like(count)
        for name in self.h:
            error = ERRORS[name]
            sums = atom_sums(error(difference.on_site), graph) + edge_sums(error(difference.pairs), graph)
            per_molecule = per_molecule + sums / count
        loss_h = per_molecule.mean()
        if not prediction.traces:
            return LossTerms(loss_h, loss_h, per_molecule.detach())
        loss_t = self._trace_loss(prediction, graph)
        if self.fixed_weights is not None:
            weight_h, mu = (loss_h.new_tensor(weight) for weight in self.fixed_weights)
            return LossTerms(weight_h * loss_h + mu * loss_t, loss_h, per_molecule.detach(), loss_t, mu)
        mu = self.trace_weight * (loss_h / loss_t.clamp_min(SMALLEST_LOSS)).detach()
        return LossTerms(loss_h + mu * loss_t, loss_h, per_molecule.detach(), loss_t, mu)

    def _trace_loss(self, prediction: Prediction, graph) -> Float[Tensor, ""]:
        masks = self._masks.shells(graph, prediction.pairs)
        sites = {
            "edge": (graph.h_edge, masks.pairs, edge_sums),
            "self": (graph.h_self, masks.on_site, atom_sums),
        }
        total = count = prediction.pairs.new_zeros(graph.num_graphs)
        for site, predicted in prediction.traces.items():
            blocks, mask, sums = sites[site]
            dtype = torch.promote_types(predicted.dtype, torch.float32)  # labels stay exact under autocast
            label = block_traces(blocks.to(dtype), self.basis)
            if self.scale_labels == "layer_norm":
                label = _standardise(label, mask)
            total = total + sums(ERRORS[self.t]((predicted - label) * mask), graph)
            count = count + sums(mask, graph)
        # A molecule of one atom has no pairs: it takes no part instead of giving 0/0.
        supervised = count > 0
        per_molecule = torch.where(supervised, total / count.clamp_min(1), 0.0)
        return per_molecule.sum() / supervised.sum().clamp_min(1)


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def _standardise(
    label: Float[Tensor, "n shells shells"], mask: Float[Tensor, "n shells shells"]
) -> Float[Tensor, "n shells shells"]:
    """LayerNorm without parameters over the basic blocks of each item; absent blocks count as zero labels."""
    flat = (label * mask).flatten(1)
    return layer_norm(flat, flat.shape[1:]).view_as(label)
