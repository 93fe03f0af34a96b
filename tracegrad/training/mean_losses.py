"""torchmetrics for means over the samples of a data set, however these are divided into batches and ranks."""

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from tracegrad.training.loss import LossTerms


class MeanLosses(Metric):
    """Means of loss_Q and loss_T over samples; sums in float64."""

    full_state_update = False
    sums: Tensor
    counts: Tensor

    def __init__(self) -> None:
        super().__init__()
        for state in ("sums", "counts"):
            self.add_state(state, default=torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")
        self.set_dtype(torch.float64)

    def update(self, terms: LossTerms) -> None:
        """Add the samples of a batch."""
        for i, losses in enumerate((terms.per_sample, terms.traces_per_sample)):
            self.sums[i] += losses.double().sum()
            self.counts[i] += len(losses)

    def compute(self) -> tuple[Tensor, Tensor]:
        """loss_Q and loss_T; loss_T is zero if no sample has traces."""
        loss_h, loss_t = self.sums / self.counts.clamp_min(1)
        return loss_h, loss_t


class SampleMean(Metric):
    """Mean over samples of one value per sample; sums in float64."""

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        for state in ("total", "count"):
            self.add_state(state, default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.set_dtype(torch.float64)

    def update(self, values: Float[Tensor, " samples"]) -> None:
        """Add the samples of a batch."""
        self.total += values.double().sum()
        self.count += len(values)

    def compute(self) -> Tensor:
        """The mean; NaN without samples."""
        return self.total / self.count
