"""Feed-forward networks on invariants, with their gradient in closed form."""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear, silu

NORM_EPS = 1e-6


class Stage(nn.Module):
    """Linear, then optionally LayerNorm, then optionally SiLU."""

    def __init__(self, c_in: int, c_out: int, *, norm: bool, activation: bool, bias: bool = True):
        super().__init__()
        self.linear = nn.Linear(c_in, c_out, bias=bias)
        self.norm = nn.LayerNorm(c_out, eps=NORM_EPS) if norm else None
        self.activation = activation


class InvariantMLP(nn.Module):
    """A chain of stages; every stage but the last has an activation.

    Args:
        widths: input, hidden and output widths (one Linear fewer than entries).
        norm: LayerNorm in the hidden stages.
        final: LayerNorm (as ``norm`` says) and SiLU after the last Linear too.
        final_bias: bias of the last Linear.
    """

    def __init__(self, widths: list[int], *, norm: bool = True, final: bool = False, final_bias: bool = True):
        super().__init__()
        last = len(widths) - 2
        stages = [
            Stage(
                c_in,
                c_out,
                norm=norm and (i < last or final),
                activation=i < last or final,
                bias=final_bias or i < last,
            )
            for i, (c_in, c_out) in enumerate(pairwise(widths))
        ]
        self.stages = cast(Sequence[Stage], nn.ModuleList(stages))

    def forward(
        self, x: Float[Tensor, "n c_before"], mixing: Float[Tensor, "c_before c_in"] | None = None
    ) -> Float[Tensor, "n c_out"]:
        """The output for the input x, or for x @ mixing."""
        x, weights, _ = self._mixed(x, mixing)
        for stage, weight in zip(self.stages, weights, strict=True):
            x = linear(x, weight, stage.linear.bias)
            if stage.norm is not None:
                x = stage.norm(x)
            x = silu(x) if stage.activation else x
        return x

    def value_and_gradient(
        self, x: Float[Tensor, "n c_before"], mixing: Float[Tensor, "c_before c_in"] | None = None
    ) -> tuple[Float[Tensor, "n c_out"], Float[Tensor, "n c_before"]]:
        """The output z and J(x)^T 1 = d(sum_c z_c)/dx, built from ordinary operations.

        Both work in inference mode, compile into one graph, and are differentiable once more by autograd.

        Args:
            x: the input, or what becomes the input by ``mixing``.
            mixing: a linear map before the first one. Both are multiplied once for all rows of x where that saves
                operations.
        """
        x, weights, apart = self._mixed(x, mixing)
        trace: list[tuple[Tensor, Tensor]] = []  # per stage: standardised input of the norm, 1 / deviation
        inputs: list[Tensor] = []  # per stage: input of the activation
        for stage, weight in zip(self.stages, weights, strict=True):
            x = linear(x, weight, stage.linear.bias)
            if stage.norm is not None:
                centred = x - x.mean(-1, keepdim=True)
                inverse = torch.rsqrt(centred.square().mean(-1, keepdim=True) + NORM_EPS)
                standard = centred * inverse
                trace.append((standard, inverse))
                x = standard * stage.norm.weight + stage.norm.bias
            inputs.append(x)
            if stage.activation:
                x = silu(x)
        z = x

        g = torch.ones_like(z)
        for stage, weight, before in zip(
            reversed(self.stages), reversed(weights), reversed(inputs), strict=True
        ):
            if stage.activation:
                sigmoid = torch.sigmoid(before)
                g = g * sigmoid * (1 + before * (1 - sigmoid))
            if stage.norm is not None:
                standard, inverse = trace.pop()
                g = g * stage.norm.weight
                g = inverse * (
                    g - g.mean(-1, keepdim=True) - standard * (g * standard).mean(-1, keepdim=True)
                )
            g = g @ weight
        return z, g if apart is None else g @ apart.T

    def _mixed(self, x: Tensor, mixing: Tensor | None) -> tuple[Tensor, list[Tensor], Tensor | None]:
        """Input and weights of all stages, and ``mixing`` where it is in the input and not in the first weight."""
        weights = [stage.linear.weight for stage in self.stages]
        if mixing is None:
            return x, weights, None
        before, width = mixing.shape
        hidden = len(weights[0])
        if len(x) * (before * (width - hidden) + width * hidden) > before * width * hidden:
            return x, [weights[0] @ mixing.T, *weights[1:]], None
        return x @ mixing, weights, mixing
