"""The operator of linear maps between the channels of item-first features of several irreps.

For every irrep x[i, m, u], with the weights W of the kind k(i) of its item,

    y[i, m, w] = scale / sqrt(channels of x) sum over u of x[i, m, u] W[k(i)][u, w] + bias[w] + plus[i, m, w]
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tracegrad.ops.errors import OperatorArgumentError
from tracegrad.ops.irreps_linear import cpu, gpu
from tracegrad.ops.operator import Operator
from tracegrad.ops.optional_tensors import OptionalTensor


def irreps_linear(
    x: Sequence[Float[Tensor, "n _m _u"]],
    weights: Sequence[Float[Tensor, "_u _w"]],
    biases: Sequence[Float[Tensor, " _w"] | None],
    plus: Sequence[Float[Tensor, "n _m _w"] | None],
    kind: Int[Tensor, " n"] | None = None,
    scale: float = 1.0,
) -> list[Float[Tensor, "n _m _w"]]:
    """The linear maps.

    Args:
        x: one feature for each irrep.
        weights: of all irreps, for one kind after another.
        biases: for each irrep, or None.
        plus: added to the result of each irrep, or None.
        kind: of each item; None if there is one kind.
        scale: multiplies all weights.

    Raises:
        OperatorArgumentError: tensors whose shapes do not fit.
        OperatorIndexError: on a CPU, a kind that does not exist; on a GPU the results of its items are NaN then.
    """
    return IRREPS_LINEAR(list(x), list(weights), list(biases), list(plus), kind, scale)


def _plain(
    x: list[Tensor],
    weights: list[Tensor],
    biases: list[OptionalTensor],
    plus: list[OptionalTensor],
    kind: OptionalTensor,
    scale: float,
) -> list[Tensor]:
    out = []
    for k, (part, bias, other) in enumerate(zip(x, biases, plus, strict=True)):
        factor = scale / math.sqrt(part.shape[2])
        if kind is None:
            y = part @ (weights[k] * factor)
        else:
            y = part @ (torch.stack(weights[k :: len(x)]) * factor).index_select(0, kind)
        y = y if bias is None else y + bias
        out.append(y if other is None else y + other)
    return out


def _outputs(x: list[Tensor], weights: list[Tensor], *others: object) -> list[Tensor]:
    return [part.new_empty(*part.shape[:2], w.shape[1]) for part, w in zip(x, weights, strict=False)]


def _check(
    x: list[Tensor],
    weights: list[Tensor],
    biases: list[OptionalTensor],
    plus: list[OptionalTensor],
    kind: OptionalTensor,
    scale: float,
) -> None:
    count = len(x)
    if (
        not {count} == {len(biases), len(plus)}
        or (len(weights) != count if kind is None else not weights or len(weights) % max(count, 1) > 0)
        or {part.ndim for part in x} != {3}
        or {weight.ndim for weight in weights} != {2}
    ):
        raise OperatorArgumentError(
            f"linear maps: features of the shapes {[tuple(part.shape) for part in x]}, weights of the shapes "
            f"{[tuple(weight.shape) for weight in weights]}; (n, m, c_in) and (c_in, c_out) are needed for each "
            "irrep, the latter also for each kind"
        )
    n, wrong = len(x[0]), []
    dtypes: set[torch.dtype] = set()
    for k, (part, bias, other) in enumerate(zip(x, biases, plus, strict=True)):
        _, m, c = part.shape
        width = weights[k].shape[1]
        of_part: list[tuple[str, OptionalTensor, tuple[int, ...]]] = [
            ("weight", weight, (c, width)) for weight in weights[k::count]
        ]
        of_part += [("feature", part, (n, m, c)), ("bias", bias, (width,)), ("plus", other, (n, m, width))]
        for name, y, shape in of_part:
            if y is not None and y.shape != shape:
                wrong.append(f"{name} {k} has the shape {tuple(y.shape)} instead of {tuple(shape)}")
        dtypes.update(y.dtype for _, y, _ in of_part if y is not None)
    if len(dtypes) > 1:
        wrong.append(f"different dtypes: {', '.join(sorted(map(str, dtypes)))}")
    if kind is not None and (kind.shape != (n,) or kind.is_floating_point()):
        wrong.append(f"kinds of the shape {tuple(kind.shape)}, {kind.dtype} for {n} items")
    if wrong:
        raise OperatorArgumentError(f"linear maps: {'; '.join(wrong)}")


def _prefers_plain(x: list[Tensor], *others: object) -> bool:
    """With one kind the products of the plain form are as fast on a CPU."""
    *_, kind, _ = others
    return kind is None and x[0].device.type == "cpu"


IRREPS_LINEAR = Operator(
    "irreps_linear",
    "Tensor[] x, Tensor[] weights, Tensor?[] biases, Tensor?[] plus, Tensor? kind, float scale",
    _plain,
    _outputs,
    check=_check,
    prefers_plain=_prefers_plain,
    results=None,
    added="plus",
)
IRREPS_LINEAR.register("CPU", cpu.irreps_linear, cpu.irreps_linear_gradient)
IRREPS_LINEAR.register("CUDA", gpu.irreps_linear, gpu.irreps_linear_gradient)
