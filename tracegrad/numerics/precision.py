"""Where mixed precision may round: invariant networks only.

Rounding an equivariant feature to bfloat16 gives another result in every orientation, an equivariance error of
about 1e-2. The operators on such features therefore stay in full precision under autocast; networks on
invariants, where the large matrices are, may use low precision.
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
    """Run a function or method outside autocast, with low-precision tensors among its arguments as float32.

    Nothing changes while autocast is off for the device of the first tensor, so that a model whose own dtype is
    low stays as it is.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        device = _device_type(args)
        if device is None or not torch.is_autocast_enabled(device):
            return function(*args, **kwargs)
        with torch.autocast(device, enabled=False):
            return function(*map(_raise, args), **{key: _raise(value) for key, value in kwargs.items()})

    return run


def _device_type(values: Any) -> str | None:
    for value in values:
        if isinstance(value, Tensor):
            return value.device.type
        if isinstance(value, list | tuple) and (found := _device_type(value)) is not None:
            return found
    return None


def _raise(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.dtype in LOW else value
    if type(value) in (list, tuple):  # an Irrep is a tuple, too, of another kind
        return type(value)(map(_raise, value))
    return value
