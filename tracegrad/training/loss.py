"""The training loss, Eqs. 7 and 8 of the TraceGrad paper: a weighted sum of named terms."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tracegrad.errors import ConfigError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.traces import BlockTraces
from tracegrad.model.network import HamiltonianPrediction
from tracegrad.ops.block_errors.block_errors import MEASURES
from tracegrad.training.loss_terms import HamiltonianTerm, LossTerm, TraceTerm, is_weight
from tracegrad.training.shifted_term import ShiftedTerm

# Lower bound of loss_T in Eq. 8, where it is a denominator.
SMALLEST_LOSS = 1e-12
# Names of the terms of the paper, loss_Q and loss_T.
H, T = "h", "t"


@dataclass
class LossValues:
    """The loss of a batch and its terms by name.

    If several processes share a batch, ``total`` and ``shares`` are the contributions of this process, whose sum over
    the processes is the value of the batch; ``weights`` and ``logs`` are values of the whole batch.
    """

    total: Float[Tensor, ""]
    shares: dict[str, Float[Tensor, ""]]
    weights: dict[str, Float[Tensor, ""]]
    logs: dict[str, Tensor]  # loss, loss_h, loss of each further term and, with traces, mu
    # Of all samples of this process, and which of them have a meaning, see `LossTerm.of_all_samples`.
    samples: dict[str, tuple[Float[Tensor, " samples"], Bool[Tensor, " samples"] | None]]

    @property
    def per_sample(self) -> dict[str, Float[Tensor, " _"]]:
        """Of the samples of this process for which the term has a meaning."""
        return {
            name: values.detach() if defined is None else values.detach()[defined]
            for name, (values, defined) in self.samples.items()
        }


def no_reduction(sums: Tensor) -> Tensor:
    """The sum over processes if there is only one."""
    return sums


class HamiltonianLoss(nn.Module):
    """loss_Q + mu loss_T with mu = lambda stop_gradient(loss_Q / loss_T), plus the weighted ``terms``.

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
        shift: loss_Q is the error up to the zero of energy, see `ShiftedTerm`.
        terms: further terms by name, each a function of basis and trace labels (a partial of a `LossTerm`).

    Attributes:
        terms: all terms by name; "h" is loss_Q, "t" is loss_T.

    Raises:
        ConfigError: an unknown error measure or scaling, weights that are not finite and >= 0, or an entry of
            ``terms`` that cannot be used.
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
        shift: bool = False,
        terms: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        unknown = sorted({*h, t}.difference(MEASURES))
        if unknown or not h:
            raise ConfigError(
                f"unknown error measures {unknown} in loss.h or loss.t; choose from {list(MEASURES)}"
            )
        if scale_labels not in ("none", "layer_norm"):
            raise ConfigError(f"loss.scale_labels is {scale_labels!r}; choose none or layer_norm")
        if not is_weight(trace_weight):
            raise ConfigError(f"loss.trace_weight is {trace_weight!r}; give a finite number >= 0")
        if fixed_weights is not None and not (
            isinstance(fixed_weights, Sequence)
            and len(fixed_weights) == 2
            and all(map(is_weight, fixed_weights))
        ):
            raise ConfigError(
                f"loss.fixed_weights is {fixed_weights}; it needs two numbers, finite and >= 0, or null"
            )
        self.traces = traces or BlockTraces(basis)
        self.trace_weight = trace_weight
        self.fixed_weights = fixed_weights
        self.terms = nn.ModuleDict(
            {
                H: (ShiftedTerm if shift else HamiltonianTerm)(basis, self.traces, measures=h),
                T: TraceTerm(basis, self.traces, measure=t, scale_labels=scale_labels),
            }
        )
        for name, make in (terms or {}).items():
            self.terms[name] = _further_term(name, make, basis, self.traces)

    def term(self, name: str) -> LossTerm:
        """The term of this name."""
        term = self.terms[name]
        assert isinstance(term, LossTerm)
        return term

    @property
    def needs_overlap(self) -> bool:
        """Whether a term needs the overlap, see `LossTerm`."""
        return any(self.term(name).needs_overlap for name in self.terms)

    @property
    def trace_term(self) -> TraceTerm:
        """loss_T."""
        term = self.terms[T]
        assert isinstance(term, TraceTerm)
        return term

    def active(self, *, traces: bool) -> list[str]:
        """Names of the terms for predictions with traces or without."""
        return [name for name in self.terms if traces or not self.term(name).needs_traces]

    def forward(
        self, prediction: HamiltonianPrediction, graph, sum_ranks: Callable[[Tensor], Tensor] = no_reduction
    ) -> LossValues:
        """Loss of a batch.

        Args:
            prediction: output of the network for the batch.
            graph: the batch, with the labels ``h_self`` and ``h_edge`` of the predicted sites.
            sum_ranks: sums a tensor over the processes that share the batch.
        """
        names = self.active(traces=bool(prediction.traces))
        samples = {name: self.term(name).of_all_samples(prediction, graph) for name in names}
        sums = torch.stack([values.sum() for values, _ in samples.values()])
        sizes = torch.stack([_size(*of_term) for of_term in samples.values()])
        totals, counts = sum_ranks(torch.cat([sums.detach().double(), sizes])).chunk(2)
        counts = counts.clamp_min(1)
        means = dict(zip(names, (totals / counts).unbind(), strict=True))
        weights = self.weights(means)
        logs = {"loss": weighted_sum(weights, means)}
        logs |= {f"loss_{name}": value for name, value in means.items()}
        if T in weights:
            logs["mu"] = _like(means[T], weights[T])
        shares = sums / counts.to(sums.dtype)
        of_shares = torch.stack([_like(shares, weights[name]) for name in names])
        return LossValues(
            (of_shares * shares).sum(),  # not @, which autocast rounds
            dict(zip(names, shares.unbind(), strict=True)),
            dict(zip(names, of_shares.unbind(), strict=True)),
            logs,
            samples,
        )

    def weights(self, means: Mapping[str, Float[Tensor, ""]]) -> dict[str, float | Float[Tensor, ""]]:
        """Weight of each term for the detached values of the terms in a batch (Eq. 8, or the fixed weights)."""
        weights: dict[str, float | Tensor] = {name: self.term(name).weight for name in means}
        if T in means and self.fixed_weights is not None:
            weights[H], weights[T] = self.fixed_weights
        elif T in means:
            weights[T] = self.trace_weight * means[H] / means[T].clamp_min(SMALLEST_LOSS)
        return weights


def weighted_sum(weights: Mapping[str, float | Tensor], values: Mapping[str, Tensor]) -> Tensor:
    """The sum of the values times their weights."""
    first, *others = [weights[name] * value for name, value in values.items()]
    return sum(others, start=first)


def _further_term(name: str, make: Any, basis: OrbitalBasis, labels: BlockTraces) -> LossTerm:
    if name in (H, T) or not name.isidentifier() or hasattr(nn.ModuleDict, name):
        raise ConfigError(f"loss.terms.{name}: no name of a term can be {name!r}; choose another word")
    term = make(basis, labels) if callable(make) else None
    if not isinstance(term, LossTerm):
        raise ConfigError(
            f"loss.terms.{name} is no term of a loss; give _target_: a class derived from "
            "tracegrad.training.loss_terms.LossTerm, and _partial_: true"
        )
    return term


def _like(values: Tensor, weight: float | Tensor) -> Float[Tensor, ""]:
    """The weight as a tensor with dtype and device of the values."""
    return weight.to(values.dtype) if isinstance(weight, Tensor) else values.new_full((), weight)


def _size(values: Tensor, defined: Tensor | None) -> Tensor:
    """Number of samples with a meaning; float64 represents that of any batch exactly."""
    if defined is None:
        return values.new_full((), len(values), dtype=torch.float64)
    return defined.sum(dtype=torch.float64)
