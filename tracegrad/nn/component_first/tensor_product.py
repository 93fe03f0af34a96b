"""Clebsch-Gordan products of component-first features.

All products compute, channel by channel, out_l3 = sum over paths of w_p C^{l1 l2 l3} (a_l1, b_l2) with the path
normalisation of `path_coefficients`; they are uses of one operator, `tracegrad.ops.coupling.couple`.

Weights are products of one or two factors (values, rows): item i has row ``rows[i]`` of the values; None means row i.
"""

from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor, nn

from tracegrad.nn.component_first.features import path_coefficients, paths
from tracegrad.numerics.precision import full_precision
from tracegrad.ops.coupling.couple import WeightFactor, couple
from tracegrad.ops.coupling.paths import CouplingPaths


class ChannelwiseProduct(nn.Module):
    """a x b with one weight per path and channel ("uuu"); parities are ignored, so all triples couple.

    Args:
        lmax: degree of both inputs and of the output.
    """

    def __init__(self, lmax: int):
        super().__init__()
        triples = paths(lmax, lmax, lmax, parity=False)
        self.n_paths = len(triples)
        scaled = tuple(zip(triples, path_coefficients(triples), strict=True))
        self.table = CouplingPaths(scaled, (lmax, lmax, lmax), shared=False)

    @full_precision
    def forward(
        self,
        a: Float[Tensor, "m items_a c"],
        b: Float[Tensor, "m items_b c"],
        factors: Sequence[WeightFactor],
        ends: tuple[Int[Tensor, " n"], Int[Tensor, " n"]] | None = None,
    ) -> Float[Tensor, "m n c"]:
        """The product of each item.

        Args:
            a, b: features.
            factors: one or two factors of the weights.
            ends: item of a and item of b for each item of the product; None means item i for item i.
        """
        first, second = ends or (None, None)
        n = a.shape[1] if first is None else len(first)
        return couple(self.table.key, a, b, factors, (first, second, None), n)


class FilterProduct(nn.Module):
    """Messages x_src x Y with one weight per edge, path and channel ("uvu"), summed at the destination of the edges.

    Y has no channels, and parity selects the paths.

    Args:
        lmax_in: degree of x (0 for the first convolution).
        lmax: degree of Y and of the output.
    """

    def __init__(self, lmax_in: int, lmax: int):
        super().__init__()
        triples = paths(lmax_in, lmax, lmax, parity=True)
        self.n_paths = len(triples)
        scaled = tuple(zip(triples, path_coefficients(triples), strict=True))
        self.table = CouplingPaths(scaled, (lmax_in, lmax, lmax), shared=True)

    @full_precision
    def forward(
        self,
        x: Float[Tensor, "m_in atoms c"],
        y: Float[Tensor, "m edges"],
        factors: Sequence[WeightFactor],
        edge_index: Int[Tensor, "2 edges"],
    ) -> Float[Tensor, "m atoms c"]:
        """For each atom the sum over the edges whose destination it is; edges are (destination, source)."""
        dst, src = edge_index
        return couple(self.table.key, x, y, factors, (src, None, dst), x.shape[1])
