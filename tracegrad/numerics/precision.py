"""Which operators mixed precision may round: networks on invariants, and no others.

Rounding an equivariant feature to bfloat16 gives another result in every orientation, an equivariance error of about
1e-2. Operators on such features therefore stay in full precision under autocast. Networks on invariants, which have
the large matrices, may use low precision.
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

LOW = (torch.bfloat16, torch.float16)


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: run a function or method outside autocast, with low-precision tensor arguments converted to float32.

    If autocast is off for the device of the first tensor argument, nothing changes, so that a model whose parameters
    have a low precision keeps it.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        device = _device_type(args)
        if device is None or not torch.is_autocast_enabled(device):
            return function(*args, **kwargs)
        with torch.autocast(device, enabled=False):
            return function(
                *map(_to_float32, args), **{key: _to_float32(value) for key, value in kwargs.items()}
            )

    return run


def _device_type(values: Any) -> str | None:
    """Device type of the first tensor among the values, also in lists and tuples."""
    for value in values:
        if isinstance(value, Tensor):
            return value.device.type
        if isinstance(value, list | tuple) and (device := _device_type(value)) is not None:
            return device
    return None


def _to_float32(value: Any) -> Any:
    """The value with low-precision tensors converted to float32, also in lists and tuples."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in LOW else value
    if type(value) in (list, tuple):  # not a subclass of tuple, such as an Irrep
        return type(value)(map(_to_float32, value))
    return value
