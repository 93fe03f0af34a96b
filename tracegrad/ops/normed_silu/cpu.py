"""C++ of SiLU after a LayerNorm; the source is csrc/normed_silu.cpp."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tracegrad.ops import native

OPERATIONS = 40  # for each number in the slowest kernel, roughly
FUNCTIONS = (
    native.Function("forward", "pppp" + "pdiii"),
    native.Function("pull", "pppppi" + "pdiii"),
    native.Function("gradient", "pppppppi" + "pdiii"),
)


def normed_silu(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor | None:
    """The form of the operator `normed_silu` for CPUs."""
    made = _run("forward", eps, x, (weight, bias), 1)
    return None if made is None else made[0]


def normed_silu_gradient(
    gradients: Sequence[Tensor], x: Tensor, weight: Tensor, bias: Tensor, eps: float, needed: Sequence[bool]
) -> list[Tensor] | None:
    """The gradient of the operator `normed_silu` for CPUs."""
    made = _run("pull", eps, x, (weight, bias, gradients[0]), 1)
    return None if made is None else [y for y, flag in zip(made, needed, strict=True) if flag]


def pulled_silu(x: Tensor, weight: Tensor, bias: Tensor, g: Tensor | None, eps: float) -> Tensor | None:
    """The form of the operator `pulled_silu` for CPUs."""
    made = _run("pull", eps, x, (weight, bias, g), 1)
    return None if made is None else made[0]


def pulled_silu_gradient(
    gradients: Sequence[Tensor],
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    g: Tensor | None,
    eps: float,
    needed: Sequence[bool],
) -> list[Tensor] | None:
    """The gradient of the operator `pulled_silu` for CPUs."""
    made = _run("gradient", eps, x, (weight, bias, g, gradients[0]), 2)
    if made is None:
        return None
    of_x, of_g, of_weight, of_bias = made
    return [y for y, flag in zip((of_x, of_weight, of_bias, of_g), needed, strict=True) if flag]


def _run(
    name: str, eps: float, x: Tensor, others: Sequence[Tensor | None], count: int
) -> list[Tensor] | None:
    """Call a function of the library, if there is one.

    Returns:
        ``count`` tensors like x, and the gradients of w and b, which are zero for "forward".
    """
    library = native.file_library("normed_silu.cpp", x.dtype, *FUNCTIONS)
    if library is None:
        return None
    rows, channels = x.shape
    step = 0 if name != "forward" and others[2] is None else channels  # without g all rows read the same ones
    inputs = [x.new_ones(channels) if t is None else native.dense(t) for t in (x, *others)]
    results = [x.new_empty(x.shape) for _ in range(count)]
    addresses = [*map(native.pointer, (*inputs, *results)), *([] if name == "forward" else [step])]
    function = getattr(library, name)
    sums: dict[int, Tensor] = {}  # first row of a share -> gradients of w and b summed over the share

    def share(first: int, last: int) -> None:
        sums[first] = torch.zeros(2, channels, dtype=torch.float64)
        function(*addresses, native.pointer(sums[first]), eps, first, last, channels)

    native.in_threads(share, rows, OPERATIONS * x.numel())
    totals = torch.stack([sums[first] for first in sorted(sums)]).sum(0)
    return [*results, *(total.to(x.dtype, copy=True) for total in totals)]
