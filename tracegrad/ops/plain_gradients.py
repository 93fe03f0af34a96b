"""Gradients of an operator with a custom backward pass, computed from its plain form by autograd.

They are used where the custom backward pass does not apply: for second derivatives, and under transformations such as
vmap.
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
    """Gradients of the inputs. Where gradients are recorded, the result can be differentiated again.

    Args:
        plain: the operator in plain torch, a function of the inputs.
        inputs: inputs of the operator.
        gradients: with respect to the outputs.
        needed: for each input whether its gradient is needed.

    Returns:
        For each input its gradient, or None where it is not needed.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views, because one tensor may be two inputs, and each must get its part of the gradient.
        views = [None if x is None else x.view_as(x) for x in inputs]
        targets = [x for x, is_needed in zip(views, needed, strict=True) if is_needed and x is not None]
        for x in targets:
            if not x.requires_grad:
                x.requires_grad_()
        results = plain(*views)
        if targets and not (targets[0] * 1).requires_grad:
            raise RuntimeError(
                "gradients of a plain form were asked for where torch does not record operations"
            )
        outputs = [results] if isinstance(results, Tensor) else results
        pairs = [(y, g) for y, g in zip(outputs, gradients, strict=True) if y.requires_grad]
        of_targets = iter(
            torch.autograd.grad(
                [y for y, _ in pairs],
                targets,
                [g for _, g in pairs],
                create_graph=create_graph,
                allow_unused=True,
                materialize_grads=True,
            )
        )
    return tuple(
        next(of_targets) if is_needed and x is not None else None
        for x, is_needed in zip(views, needed, strict=True)
    )
