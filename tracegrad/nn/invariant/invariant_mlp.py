"""Feed-forward networks on invariants, with their gradient in closed form."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

from tracegrad.nn.invariant.normed_silu import normed_silu
from tracegrad.ops.matrix_product import linear, product

NORM_EPS = 1e-6
# g -> J^T g for the Jacobian J of a function.
Pull = Callable[[Float[Tensor, "n c_out"]], Float[Tensor, "n c_out"]]


class Stage(nn.Module):
    """Linear, then optionally LayerNorm, then optionally SiLU."""

    def __init__(
        self, c_in: int, c_out: int, *, norm: bool, activation: bool, bias: bool = True, eps: float = NORM_EPS
    ):
        super().__init__()
        self.linear = nn.Linear(c_in, c_out, bias=bias)
        self.norm = nn.LayerNorm(c_out, eps=eps) if norm else None
        self.activation = activation

    def forward(
        self, x: Float[Tensor, "n c_in"], weight: Float[Tensor, "c_out c_in"]
    ) -> tuple[Float[Tensor, "n c_out"], Pull]:
        """The output, and g -> J^T g for the Jacobian J of all that follows the Linear.

        Args:
            x: input.
            weight: takes the place of the weight of the Linear.
        """
        x = linear(x, weight, self.linear.bias)
        if self.norm is not None:
            return normed_silu(x, self.norm.weight, self.norm.bias, self.norm.eps)
        return (silu(x), partial(_pull_silu, x)) if self.activation else (x, lambda g: g)


def _pull_silu(x: Float[Tensor, "n c"], g: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
    sigmoid = torch.sigmoid(x)
    return g * sigmoid * (1 + x * (1 - sigmoid))


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
        x, weights, _ = self._mixed(x, mixing)
        for stage, weight in zip(self.stages, weights, strict=True):
            x, _ = stage(x, weight)
        return x

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
        x, weights, separate = self._mixed(x, mixing)
        pulls = []
        for stage, weight in zip(self.stages, weights, strict=True):
            x, pull = stage(x, weight)
            pulls.append(pull)
        z = x

        g = torch.ones_like(z)
        for weight, pull in zip(reversed(weights), reversed(pulls), strict=True):
            g = product(pull(g), weight)
        return z, g if separate is None else product(g, separate.T)

    def _mixed(self, x: Tensor, mixing: Tensor | None) -> tuple[Tensor, list[Tensor], Tensor | None]:
        """Apply ``mixing`` to the input or to the first weight, whichever takes fewer operations.

        Returns:
            The input, the weights of all stages, and ``mixing`` if it was applied to the input.
        """
        weights = [stage.linear.weight for stage in self.stages]
        if mixing is None:
            return x, weights, None
        before, width = mixing.shape
        hidden = len(weights[0])
        if len(x) * (before * (width - hidden) + width * hidden) > before * width * hidden:
            return x, [product(weights[0], mixing.T), *weights[1:]], None
        return product(x, mixing), weights, mixing
