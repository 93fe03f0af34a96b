"""Tensors that an operator may do without."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

OptionalTensor = Tensor | None


def contiguous(tensors: Sequence[OptionalTensor]) -> list[Any]:
    """The tensors as contiguous ones; missing ones stay None (the caller knows which, the type does not)."""
    return [None if x is None else x.contiguous() for x in tensors]
