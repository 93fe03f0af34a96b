"""A torchmetric for means over the samples of a data set, however these are divided into batches and ranks."""

from collections.abc import Mapping, Sequence
from math import nan

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric


class SampleMeans(Metric):
    """Means over samples of one value per sample for each name; sums in float64.

    Args:
        names: of the values.
        empty: the mean of no sample.
    """

    full_state_update = False
    sums: Tensor
    counts: Tensor

    def __init__(self, names: Sequence[str], empty: float = nan) -> None:
        super().__init__()
        self.names, self.empty = tuple(names), empty
        for state in ("sums", "counts"):
            zeros = torch.zeros(len(self.names), dtype=torch.float64)
            self.add_state(state, default=zeros, dist_reduce_fx="sum")
        self.set_dtype(torch.float64)

    def update(self, values: Mapping[str, Float[Tensor, " _"]]) -> None:
        """Add the samples of a batch."""
        for i, name in enumerate(self.names):
            self.sums[i] += values[name].double().sum()
            self.counts[i] += len(values[name])

    def compute(self) -> dict[str, Tensor]:
        """The mean of each name."""
        means = torch.where(self.counts > 0, self.sums / self.counts.clamp_min(1), self.empty)
        return dict(zip(self.names, means, strict=True))
