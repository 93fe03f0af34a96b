"""The operator of activations and gates that are scaled channel by channel.

Every irrep of a feature has some channels, and takes them from one of the tensors x, to which a function f belongs:

    y[i, c] = factor f(x[i, c]) scale[i, column of c]

The columns of the scale are the channels of all irreps in their order; those of one x are the channels of its irreps.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import silu

from tracegrad.ops.errors import OperatorArgumentError
from tracegrad.ops.gates import cpu, gpu
from tracegrad.ops.operator import Operator

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


def gates(
    x: Sequence[Float[Tensor, "n _c"]],
    scale: Float[Tensor, "n channels"],
    widths: Sequence[int],
    owners: Sequence[int],
    functions: Sequence[str],
    factors: Sequence[float],
) -> list[Float[Tensor, "n _c"]]:
    """For each x the scaled function of it.

    Args:
        x: arguments of the functions.
        scale: of all channels.
        widths: number of channels of each irrep.
        owners: position of the x to which each irrep belongs.
        functions, factors: of each x; the former are names of `FUNCTIONS`.

    Raises:
        OperatorArgumentError: tensors whose shapes do not fit.
    """
    return GATES(list(x), scale, list(widths), list(owners), " ".join(functions), list(factors))


def _plain(
    x: list[Tensor], scale: Tensor, widths: list[int], owners: list[int], functions: str, factors: list[float]
) -> list[Tensor]:
    parts = scale.split(widths, dim=1)
    out = []
    for k, (part, function, factor) in enumerate(zip(x, functions.split(), factors, strict=True)):
        of_part = [s for s, owner in zip(parts, owners, strict=True) if owner == k]
        joined = of_part[0] if len(of_part) == 1 else torch.cat(of_part, dim=1)
        out.append(FUNCTIONS[function](part) * (factor * joined))
    return out


def _outputs(x: list[Tensor], *others: object) -> list[Tensor]:
    return [part.new_empty(part.shape) for part in x]


def _check(
    x: list[Tensor], scale: Tensor, widths: list[int], owners: list[int], functions: str, factors: list[float]
) -> None:
    names = functions.split()
    sums = [
        sum(width for width, owner in zip(widths, owners, strict=True) if owner == k) for k in range(len(x))
    ]
    if (
        scale.ndim != 2
        or scale.shape[1] != sum(widths)
        or any(part.shape != (len(scale), c) for part, c in zip(x, sums, strict=True))
        or not set(owners) == set(range(len(x)))
        or not len(x) == len(names) == len(factors)
        or not set(names) <= FUNCTIONS.keys()
        or any(part.dtype != scale.dtype for part in x)
        or min(widths, default=0) < 0
    ):
        raise OperatorArgumentError(
            f"gates: {[(tuple(part.shape), part.dtype) for part in x]} with the functions {names} and a scale "
            f"{tuple(scale.shape)}, {scale.dtype}; the irreps need {sums} and {sum(widths)} columns"
        )


def _prefers_plain(x: list[Tensor], scale: Tensor, *others: object) -> bool:
    return scale.device.type == "cpu"


GATES = Operator(
    "gates",
    "Tensor[] x, Tensor scale, int[] widths, int[] owners, str functions, float[] factors",
    _plain,
    _outputs,
    check=_check,
    prefers_plain=_prefers_plain,
    results=None,
)
GATES.register("CPU", cpu.gates, cpu.gates_gradient)
GATES.register("CUDA", gpu.gates, gpu.gates_gradient)
