"""The feed-forward part of EquiformerV2: each item by itself."""

from collections.abc import Callable, Sequence

from jaxtyping import Float
from torch import Tensor, nn

from tracegrad.nn.item_first.scalar_gate import ScalarGate
from tracegrad.nn.item_first.so3_linear import so3_linear
from tracegrad.nn.item_first.sphere_activation import SphereActivation

Activation = ScalarGate | SphereActivation


class FeedForward(nn.Module):
    """Linear map, activation, linear map (stated for EquiformerV2).

    Args:
        channels: of each degree of the feature.
        hidden: channels of each degree between the maps.
        activation: makes the activation of the hidden channels; its additional scalars are linear in those of the
            feature.
    """

    def __init__(
        self,
        channels: Sequence[int],
        hidden: Sequence[int],
        activation: Callable[[Sequence[int]], Activation],
    ):
        super().__init__()
        self.activation = activation(hidden)
        self.split = [hidden[0], self.activation.scalars]
        self.first = so3_linear(channels, [sum(self.split), *hidden[1:]])
        self.last = so3_linear(hidden, channels)

    def forward(
        self, x: list[Float[Tensor, "n _m _c"]], plus: list[Float[Tensor, "n _m _c"]]
    ) -> list[Float[Tensor, "n _m _c"]]:
        """The result for x, and ``plus``."""
        both, *others = self.first(x)
        scalars, additional = both.split(self.split, dim=2)
        return self.last(self.activation([scalars, *others], additional[:, 0]), plus)
