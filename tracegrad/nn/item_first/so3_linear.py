"""Linear maps of features that have one irrep for each degree, of natural parity: 0e, 1o, 2e, ...

They are `IrrepsLinear` with the initial weights of EquiformerV2.
"""

from collections.abc import Sequence

from e3nn.o3 import Irreps
from torch import nn

from tracegrad.nn.item_first.irreps_linear import IrrepsLinear


def natural_irreps(channels: Sequence[int]) -> Irreps:
    """The irreps 0e, 1o, 2e, ... with these numbers of channels."""
    return Irreps([(count, (degree, (-1) ** degree)) for degree, count in enumerate(channels)])


def so3_linear(inputs: Sequence[int], outputs: Sequence[int]) -> IrrepsLinear:
    """One matrix for each degree, the same for every m, and a bias for l = 0 (stated for EquiformerV2).

    The effective weights start uniform in +-1/sqrt(inputs), the bias at zero.

    Args:
        inputs, outputs: channels of each degree.
    """
    linear = IrrepsLinear(natural_irreps(inputs), natural_irreps(outputs), bias=True)
    for weight in linear.weights:  # they are divided by sqrt(inputs) when they are used
        nn.init.uniform_(weight, -1, 1)
    return linear
