"""Sizes and layouts of features and of their pairs of channels."""

from collections.abc import Sequence

import torch
from torch import Tensor


def pair_counts(feature: Sequence[Tensor]) -> list[int]:
    """Number of pairs i <= j of channels of each irrep."""
    return [f.shape[2] * (f.shape[2] + 1) // 2 for f in feature]


def results_like(feature: Sequence[Tensor]) -> list[Tensor]:
    """New tensors with the shapes of the feature, and with its strides where its channels are adjacent."""
    made = [torch.empty_like(f) for f in feature]
    return [x if x.stride(2) == 1 else x.new_empty(x.shape) for x in made]


def with_adjacent_channels(feature: Sequence[Tensor]) -> list[Tensor]:
    """The feature as kernels read it, with any strides of components and items."""
    return [f.resolve_neg() if f.stride(2) == 1 else f.resolve_neg().contiguous() for f in feature]
