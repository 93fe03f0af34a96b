"""Softmax over the edges that end at a node."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tracegrad.numerics.precision import full_precision


@full_precision
def edge_softmax(
    logits: Float[Tensor, "edges heads"],
    node: Int[Tensor, " edges"],
    nodes: int,
    taking_part: Bool[Tensor, " edges"],
) -> Float[Tensor, "edges heads"]:
    """exp(logit) over the sum of exp(logit) of all edges of the same node that take part; 0 for other edges.

    Args:
        logits: of each edge and head.
        node: at which the edge ends.
        nodes: number of nodes.
        taking_part: which edges have a weight.
    """
    logits = logits.masked_fill(~taking_part[:, None], -torch.inf)
    index = node[:, None].expand_as(logits)
    largest = logits.new_full((nodes, logits.shape[1]), -torch.inf)
    largest = largest.scatter_reduce(0, index, logits.detach(), "amax")
    largest = torch.where(largest.isfinite(), largest, 0.0)  # of a node without such edges
    weights = torch.exp(logits - largest.index_select(0, node))
    sums = weights.new_zeros(nodes, weights.shape[1]).index_add(0, node, weights)
    return weights / torch.where(sums > 0, sums, 1.0).index_select(0, node)
