"""Layers that bound their memory: edges in parts, and results that the backward pass computes again."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.utils.checkpoint import checkpoint

R = TypeVar("R")


def edge_parts(edges: int, edge_chunk: int | None) -> list[slice]:
    """Consecutive parts of all edges, of ``edge_chunk`` edges each except the last; None: a single part."""
    if edge_chunk is None:
        return [slice(None)]  # without a step, so that torch.compile takes any number of edges
    return [slice(start, start + edge_chunk) for start in range(0, edges, edge_chunk)]


def run_layer(function: Callable[..., R], *arguments: Any, recompute: bool) -> R:
    """Call a function.

    With ``recompute`` the backward pass calls it again, so that its intermediate results need no memory.
    """
    if recompute and torch.is_grad_enabled():
        return checkpoint(function, *arguments, use_reentrant=False)
    return function(*arguments)
