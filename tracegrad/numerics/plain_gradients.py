"""Gradients of the plain form of an operator that has a backward pass of its own.

They serve where that backward pass cannot: for second derivatives, and under transformations such as vmap.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def plain_gradients(
    plain: Callable[..., Tensor | Sequence[Tensor]],
    inputs: Sequence[Tensor | None],
    gradients: Sequence[Tensor],
    needed: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Gradients of the inputs, where they are needed; they have a graph themselves where gradients are recorded.

    Args:
        plain: function of the inputs.
        inputs: saved by the operator.
        gradients: of the outputs.
        needed: which inputs want a gradient.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views, because the same tensor may stand for two inputs, and each has its own part of the gradient.
        own = [None if x is None else x.view_as(x) for x in inputs]
        for x, wants in zip(own, needed, strict=True):
            if wants and x is not None and not x.requires_grad:
                x.requires_grad_()
        made = plain(*own)
        outputs = [made] if isinstance(made, Tensor) else made
        pairs = [(y, g) for y, g in zip(outputs, gradients, strict=True) if y.requires_grad]
        wanted = [x for x, wants in zip(own, needed, strict=True) if wants and x is not None]
        found = iter(
            torch.autograd.grad(
                [y for y, _ in pairs],
                wanted,
                [g for _, g in pairs],
                create_graph=create_graph,
                allow_unused=True,
                materialize_grads=True,
            )
        )
    return tuple(
        next(found) if wants and x is not None else None for x, wants in zip(own, needed, strict=True)
    )
