"""The operator of the expansion of features into blocks: one linear map, the same for all items.

The numbers of an item are those of its features one after another, [m, c] in each, in the global frame:

    elements[i] = A numbers[i],    numbers[i] = [R_i x_0[i], R_i x_1[i], ...]

Of the entries of A only 1 in 8 or fewer is not zero (`ExpansionMap`).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tracegrad.ops.errors import OperatorArgumentError
from tracegrad.ops.operator import Operator
from tracegrad.ops.shell_pairs import cpu, gpu
from tracegrad.ops.shell_pairs.maps import ExpansionMap

Rotation = Tensor | None


def expand(
    expansion: ExpansionMap,
    x: Sequence[Float[Tensor, "n _m _c"]],
    rotations: Sequence[Float[Tensor, "n _m _m"] | None],
) -> Float[Tensor, "n elements"]:
    """Elements of the blocks.

    Args:
        expansion: from the numbers of the features to the elements.
        x: features.
        rotations: of each feature to the global frame; None for a feature that is in the global frame.

    Raises:
        OperatorArgumentError: features or rotations whose shapes do not fit.
    """
    return EXPAND(list(x), list(rotations), expansion.key)


def _plain(x: list[Tensor], rotations: list[Rotation], key: str) -> Tensor:
    turned = [part if r is None else r @ part for part, r in zip(x, rotations, strict=True)]
    return ExpansionMap.named(key).dense(torch.cat([part.flatten(1) for part in turned], dim=1))


def _outputs(x: list[Tensor], rotations: list[Rotation], key: str) -> Tensor:
    return x[0].new_empty(x[0].shape[0], ExpansionMap.named(key).forward.outputs)


def _check(x: list[Tensor], rotations: list[Rotation], key: str) -> None:
    expected = ExpansionMap.named(key).transpose.outputs
    if any(part.ndim != 3 or len(part) != len(x[0]) for part in x):
        raise OperatorArgumentError(
            f"features of the shapes {[tuple(part.shape) for part in x]}; they must be (n, m, c) with the same n"
        )
    if (numbers := sum(part.shape[1] * part.shape[2] for part in x)) != expected:
        raise OperatorArgumentError(
            f"features of {numbers} numbers for each item; the blocks need {expected}"
        )
    for k, (part, rotation) in enumerate(zip(x, rotations, strict=True)):
        n, m, _ = part.shape
        if rotation is not None and (rotation.shape != (n, m, m) or rotation.dtype != part.dtype):
            raise OperatorArgumentError(
                f"rotation {k}: a tensor of shape {tuple(rotation.shape)}, {rotation.dtype}; "
                f"{(n, m, m)}, {part.dtype} is needed"
            )
    if len({part.dtype for part in x}) > 1:
        raise OperatorArgumentError(f"features of different dtypes: {[part.dtype for part in x]}")


EXPAND = Operator(
    "expand",
    "Tensor[] x, Tensor?[] rotations, str key",
    _plain,
    _outputs,
    check=_check,
    without_gradient=("rotations",),
    linear=("x",),
)
EXPAND.register("CPU", cpu.expand, cpu.expand_gradient)
EXPAND.register("CUDA", gpu.expand, gpu.expand_gradient)
