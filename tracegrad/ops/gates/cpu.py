"""Form of the gates for CPUs: the vectorised functions of torch, without records for automatic differentiation."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import silu

Columns = list[tuple[int, int]]  # first column of the scale, and number of columns


def gates(
    x: Sequence[Tensor],
    scale: Tensor,
    widths: Sequence[int],
    owners: Sequence[int],
    functions: str,
    factors: Sequence[float],
) -> list[Tensor]:
    """The form of the operator `gates` for CPUs."""
    out = []
    for k, (part, name, factor) in enumerate(zip(x, functions.split(), factors, strict=True)):
        y = silu(part) if name == "silu" else torch.tanh(part) if name == "tanh" else torch.sigmoid(part)
        out.append(y.mul_(_selected(scale, columns_of(k, widths, owners))).mul_(factor))
    return out


def gates_gradient(
    gradients: Sequence[Tensor],
    x: Sequence[Tensor],
    scale: Tensor,
    widths: Sequence[int],
    owners: Sequence[int],
    functions: str,
    factors: Sequence[float],
    needed: Sequence[bool],
) -> list[Tensor]:
    """The gradient of the operator `gates` for CPUs."""
    of_scale = torch.empty_like(scale)
    made = []
    for k, (g, part, name, factor) in enumerate(zip(gradients, x, functions.split(), factors, strict=True)):
        columns, g = columns_of(k, widths, owners), g * factor
        of_y = g * _selected(scale, columns)
        if name == "silu":
            y, of_x = silu(part), torch.ops.aten.silu_backward(of_y, part)
        elif name == "tanh":
            y = torch.tanh(part)
            of_x = of_y.addcmul_(of_y * y, y, value=-1)
        else:
            y = torch.sigmoid(part)
            of_x = of_y.mul_(y).addcmul_(of_y, y, value=-1)
        made.append(of_x)
        g.mul_(y)
        first = 0
        for start, width in columns:
            of_scale[:, start : start + width] = g[:, first : first + width]
            first += width
    return [y for y, flag in zip((*made, of_scale), needed, strict=True) if flag]


def columns_of(k: int, widths: Sequence[int], owners: Sequence[int]) -> Columns:
    """Columns of the scale that belong to one x, adjacent ones together."""
    columns: Columns = []
    start = 0
    for width, owner in zip(widths, owners, strict=True):
        if owner == k and columns and sum(columns[-1]) == start:
            columns[-1] = columns[-1][0], columns[-1][1] + width
        elif owner == k:
            columns.append((start, width))
        start += width
    return columns


def _selected(scale: Tensor, columns: Columns) -> Tensor:
    parts = [scale[:, start : start + width] for start, width in columns]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
