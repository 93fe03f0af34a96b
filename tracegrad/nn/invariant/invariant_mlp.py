"""Feed-forward networks on invariants, with their gradient in closed form."""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from tracegrad.ops.low_rank.encoder import StageTensors, value, value_and_gradient
from tracegrad.ops.matrix_product import product

NORM_EPS = 1e-6


class Stage(nn.Module):
    """Linear, then optionally LayerNorm, then optionally SiLU."""

    def __init__(
        self, c_in: int, c_out: int, *, norm: bool, activation: bool, bias: bool = True, eps: float = NORM_EPS
    ):
        super().__init__()
        self.linear = nn.Linear(c_in, c_out, bias=bias)
        self.norm = nn.LayerNorm(c_out, eps=eps) if norm else None
        self.activation, self.eps = activation, eps

    def tensors(self) -> StageTensors:
        """The parameters, for the functions of the whole network."""
        weight, bias = (None, None) if self.norm is None else (self.norm.weight, self.norm.bias)
        return StageTensors(self.linear.weight, self.linear.bias, weight, bias, self.eps, self.activation)


class InvariantMLP(nn.Module):
    """A chain of stages; every stage but the last has an activation.

    Args:
        widths: input, hidden and output widths (one Linear fewer than entries).
        norm: LayerNorm in the hidden stages.
        final: also after the last Linear a LayerNorm (if ``norm``) and SiLU.
        final_bias: the last Linear has a bias.
        zero_bias: start the bias of the first Linear at 0 instead of at uniform random numbers.
        eps: of the LayerNorms.
    """

    def __init__(
        self,
        widths: list[int],
        *,
        norm: bool = True,
        final: bool = False,
        final_bias: bool = True,
        zero_bias: bool = False,
        eps: float = NORM_EPS,
    ):
        super().__init__()
        last = len(widths) - 2
        stages = [
            Stage(
                c_in,
                c_out,
                norm=norm and (i < last or final),
                activation=i < last or final,
                bias=final_bias or i < last,
                eps=eps,
            )
            for i, (c_in, c_out) in enumerate(pairwise(widths))
        ]
        if zero_bias and stages[0].linear.bias is not None:
            nn.init.zeros_(stages[0].linear.bias)
        self.stages = cast(Sequence[Stage], nn.ModuleList(stages))

    def forward(
        self, x: Float[Tensor, "n c_before"], mixing: Float[Tensor, "c_before c_in"] | None = None
    ) -> Float[Tensor, "n c_out"]:
        """The output for the input x, or for x @ mixing."""
        x, stages, _ = self._mixed(x, mixing)
        return value(x, stages)

    def value_and_gradient(
        self, x: Float[Tensor, "n c_before"], mixing: Float[Tensor, "c_before c_in"] | None = None
    ) -> tuple[Float[Tensor, "n c_out"], Float[Tensor, "n c_before"]]:
        """The output z and the gradient J(x)^T 1 = d(sum_c z_c)/dx, built from ordinary operations.

        Both can be computed in inference mode, compile into one graph, and can be differentiated again by autograd.

        Args:
            x: the input, or what ``mixing`` maps to the input.
            mixing: a linear map before the first Linear. Where it saves operations, both matrices are multiplied
                once for all rows of x.
        """
        x, stages, separate = self._mixed(x, mixing)
        z, g = value_and_gradient(x, stages)
        return z, g if separate is None else product(g, separate.T)

    def tensors(self) -> list[StageTensors]:
        """The parameters of all stages."""
        return [stage.tensors() for stage in self.stages]

    def _mixed(self, x: Tensor, mixing: Tensor | None) -> tuple[Tensor, list[StageTensors], Tensor | None]:
        """Apply ``mixing`` to the input or to the first weight, whichever takes fewer operations.

        Returns:
            The input, the parameters of all stages, and ``mixing`` if it was applied to the input.
        """
        first, *others = self.tensors()
        if mixing is None:
            return x, [first, *others], None
        before, width = mixing.shape
        hidden = len(first.weight)
        if len(x) * (before * (width - hidden) + width * hidden) > before * width * hidden:
            return x, [first._replace(weight=product(first.weight, mixing.T)), *others], None
        return product(x, mixing), [first, *others], mixing
