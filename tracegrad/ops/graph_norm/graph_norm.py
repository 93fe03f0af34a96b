"""The operator of the layer norm of item-first features, with statistics over all items of a graph.

For every irrep x[i, m, c], with the weights w[c], R_i the rotation from the frame of item i to the global frame, and
mean over the items i of a graph and over the channels c:

    y[i, :, c] = w[c] (x[i, :, c] - R_i^T mean of R_i x) + plus[i, :, c]                            l > 0
    y[i, c]    = w[c] (x[i, c] - mean of x) / (deviation of x + 1e-5) + bias[c] + plus[i, c]        l = 0

The deviation is the square root of the mean of (x - mean of x)^2.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tracegrad.ops.errors import OperatorArgumentError
from tracegrad.ops.graph_norm import cpu, gpu
from tracegrad.ops.graph_norm.eps import EPS
from tracegrad.ops.operator import Operator
from tracegrad.ops.optional_tensors import OptionalTensor


def graph_norm(
    x: Sequence[Float[Tensor, "n _m _c"]],
    weights: Sequence[Float[Tensor, " _c"]],
    biases: Sequence[Float[Tensor, " _c"] | None],
    plus: Sequence[Float[Tensor, "n _m _c"] | None],
    rotations: Sequence[Float[Tensor, "n _m _m"] | None],
    batch: Int[Tensor, " n"],
    counts: Float[Tensor, " graphs"],
) -> list[Float[Tensor, "n _m _c"]]:
    """The normalised features.

    Args:
        x: one feature for each irrep; those with one component are scalars.
        weights: of the channels.
        biases: of the channels of scalars; None adds nothing.
        plus: added to the result; None adds nothing.
        rotations: from the frames of the items to the global frame; None if the feature is in the global frame.
        batch: graph of each item.
        counts: number of items of each graph.

    Raises:
        OperatorArgumentError: tensors whose shapes do not fit.
        OperatorIndexError: on a CPU, an item of a graph that does not exist; on a GPU its results are NaN then.
    """
    return GRAPH_NORM(list(x), list(weights), list(biases), list(plus), list(rotations), batch, counts)


def _plain(
    x: list[Tensor],
    weights: list[Tensor],
    biases: list[OptionalTensor],
    plus: list[OptionalTensor],
    rotations: list[OptionalTensor],
    batch: Tensor,
    counts: Tensor,
) -> list[Tensor]:
    out = []
    for part, weight, bias, other, rotation in zip(x, weights, biases, plus, rotations, strict=True):
        means = part.mean(2, keepdim=True)
        if rotation is None:
            y = part - _over_graph(means, batch, counts)
        else:
            y = part - rotation.mT @ _over_graph(rotation @ means, batch, counts)
        if part.shape[1] == 1:
            variance = _over_graph(y.square().mean(2, keepdim=True), batch, counts)
            # Where all numbers are equal, the deviation is zero; so is then its gradient, not 0/0.
            positive = variance > 0
            y = y / (torch.where(positive, torch.where(positive, variance, 1.0).sqrt(), 0.0) + EPS)
        y = y * weight
        y = y if bias is None else y + bias
        out.append(y if other is None else y + other)
    return out


def _over_graph(
    values: Float[Tensor, "n m 1"], batch: Int[Tensor, " n"], counts: Float[Tensor, " graphs"]
) -> Float[Tensor, "n m 1"]:
    """For each item the mean over the items of its graph."""
    sums = values.new_zeros(len(counts), *values.shape[1:]).index_add(0, batch, values)
    return (sums / counts[:, None, None]).index_select(0, batch)


def _outputs(x: list[Tensor], *others: object) -> list[Tensor]:
    return [part.new_empty(part.shape) for part in x]


def _check(
    x: list[Tensor],
    weights: list[Tensor],
    biases: list[OptionalTensor],
    plus: list[OptionalTensor],
    rotations: list[OptionalTensor],
    batch: Tensor,
    counts: Tensor,
) -> None:
    if not x or {part.ndim for part in x} != {3} or batch.ndim != 1 or counts.ndim != 1:
        raise OperatorArgumentError(
            f"graph norm: features of the shapes {[tuple(part.shape) for part in x]}, batch {tuple(batch.shape)}, "
            f"counts {tuple(counts.shape)}; (n, m, c), (n,) and (graphs,) are needed"
        )
    n, dtypes, wrong = len(batch), {counts.dtype}, []
    for k, (part, *others) in enumerate(zip(x, weights, biases, plus, rotations, strict=True)):
        _, m, c = part.shape
        if m % 2 == 0:
            wrong.append(f"feature {k} has {m} components instead of 2l + 1")
        shapes = ((n, m, c), (c,), (c,), (n, m, c), (n, m, m))
        names = ("feature", "weights", "bias", "plus", "rotation")
        for name, y, shape in zip(names, (part, *others), shapes, strict=True):
            if y is not None and y.shape != shape:
                wrong.append(f"{name} {k} has the shape {tuple(y.shape)} instead of {tuple(shape)}")
        dtypes.update(y.dtype for y in (part, *others) if y is not None)
    if len(dtypes) > 1:
        wrong.append(f"different dtypes: {', '.join(sorted(map(str, dtypes)))}")
    if batch.is_floating_point():
        wrong.append(f"batch is {batch.dtype}, not whole numbers")
    if wrong:
        raise OperatorArgumentError(f"graph norm: {'; '.join(wrong)}")


GRAPH_NORM = Operator(
    "graph_norm",
    "Tensor[] x, Tensor[] weights, Tensor?[] biases, Tensor?[] plus, Tensor?[] rotations, Tensor batch, "
    "Tensor counts",
    _plain,
    _outputs,
    check=_check,
    without_gradient=("rotations", "counts"),
    results=None,
    added="plus",
)
GRAPH_NORM.register("CPU", cpu.graph_norm, cpu.graph_norm_gradient)
GRAPH_NORM.register("CUDA", gpu.graph_norm, gpu.graph_norm_gradient)
