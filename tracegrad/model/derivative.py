"""Derivatives of predicted blocks of H with respect to fields of their graph, in forward mode.

H has many more elements than a structure has coordinates. One direction in which the inputs move is followed through
the network beside its values; no results of layers are kept, so that the memory is about twice that of a prediction
whatever the number of directions.
"""

import copy
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Inexact
from torch import Tensor
from torch.autograd import forward_ad

from tracegrad.nn.interface import Blocks


@torch.no_grad()
def blocks_along(
    predict: Callable[..., Blocks], graph, slopes: Mapping[str, Inexact[Tensor, "*_"]]
) -> Blocks:
    """Derivatives of the blocks of a graph where some of its fields move.

    Args:
        predict: blocks of a graph.
        graph: a graph or a batch of them; it is not changed.
        slopes: derivative of each field that moves, with its shape and dtype.
    """
    with forward_ad.dual_level():
        moved = copy.copy(graph)
        for name, slope in slopes.items():
            moved[name] = forward_ad.make_dual(graph[name], slope)
        found = {site: forward_ad.unpack_dual(blocks) for site, blocks in predict(moved).items()}
    return {
        site: torch.zeros_like(one.primal) if one.tangent is None else one.tangent
        for site, one in found.items()
    }
