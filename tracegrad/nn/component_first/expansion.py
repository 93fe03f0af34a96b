"""The expansion of QHNet from component-first features to blocks of H."""

from jaxtyping import Float, Int
from torch import Tensor, nn

from tracegrad.ops.expansion.expand import expand_blocks
from tracegrad.ops.expansion.shells import ExpansionShells


class BlockExpansion(nn.Module):
    """Expand features into blocks over a union of shells (the tensor expansion of QHNet).

    The formula stands in `tracegrad.ops.expansion.expand`.

    Args:
        lmax: degree of the features.
        channels: channels of each degree.
        shells: degrees of the union shells, ascending.
    """

    def __init__(self, lmax: int, channels: int, shells: tuple[int, ...]):
        super().__init__()
        self.tables = ExpansionShells(lmax, channels, shells)
        self.n_bias = self.tables.multiplicities[0]
        self.n_weights = channels * self.tables.mixtures

    def forward(
        self,
        x: Float[Tensor, "m n c"],
        weights: Float[Tensor, "kinds weights"],
        bias: Float[Tensor, "kinds bias"],
        kind: Int[Tensor, " n"],
    ) -> Float[Tensor, "n dim dim"]:
        """Blocks of all items; items of the same kind have the same weights and bias, flat, path by path."""
        return expand_blocks(x, weights, bias, kind, self.tables.key)
