"""Numerical tables that are exact in every precision."""

import torch
from torch import Tensor


class Constant:
    """A float64 table, returned in the dtype and on the device of another tensor.

    A registered buffer would be rounded by ``model.float()`` and stay rounded after ``model.double()``. This class
    keeps the exact values and caches one copy for each dtype and device. It is not part of a state_dict.

    Args:
        values: the table.
    """

    def __init__(self, values: Tensor):
        with torch.inference_mode(False):  # a table made in inference mode must work in training, too
            exact = values.detach().to("cpu", torch.float64, copy=True)
        self._copies = {(torch.float64, torch.device("cpu")): exact}

    def __call__(self, like: Tensor) -> Tensor:
        """The table in the dtype and on the device of ``like``; it is cached, do not write into it."""
        key = (like.dtype, like.device)
        if key not in self._copies:
            exact = self._copies[torch.float64, torch.device("cpu")]
            with torch.inference_mode(False):
                self._copies[key] = exact.to(like.device, like.dtype)
        return self._copies[key]
