"""The separable S2 activation: a non-linearity at the points of a grid of the sphere.

A channel of degrees 0 .. L is a function on the sphere, whose values at the points of a grid pass through silu and
are projected back. The result is not band-limited, and the quadrature is not exact for it: rotations are kept only up
to an error that falls exponentially with the grid. Points are beta = (k + 1/2) pi / n_beta, alpha = 2 pi k / n_alpha,
with the weights that integrate all polynomials of cos(beta) of a degree < n_beta exactly (Fejer's first rule).
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from tracegrad.errors import ConfigError
from tracegrad.numerics.constants import Constant
from tracegrad.numerics.precision import full_precision
from tracegrad.ops.spherical_harmonics import spherical_harmonics


def sphere_grid(
    degree: int, n_beta: int, n_alpha: int
) -> tuple[Float[Tensor, "components points"], Float[Tensor, "components points"]]:
    """Tables from components l^2 + l + m to points and back, float64.

    Components of unit variance give values of unit variance ("component" normalisation, stated for EquiformerV2).

    Args:
        degree: L, the highest degree.
        n_beta, n_alpha: numbers of polar angles and of azimuths, both at least 2L + 1.

    Raises:
        ConfigError: a grid that is too coarse for the degree.
    """
    if min(n_beta, n_alpha) < 2 * degree + 1:
        raise ConfigError(
            f"model.backbone.grid is [{n_beta}, {n_alpha}]; degree {degree} needs at least {2 * degree + 1} polar "
            "angles and azimuths"
        )
    beta = (torch.arange(n_beta, dtype=torch.float64) + 0.5) * (math.pi / n_beta)
    alpha = torch.arange(n_alpha, dtype=torch.float64) * (2 * math.pi / n_alpha)
    j = torch.arange(1, n_beta // 2 + 1, dtype=torch.float64)
    # Of all points of one beta; the weights sum to 1.
    weights = (1 - 2 * (torch.cos(2 * j * beta[:, None]) / (4 * j**2 - 1)).sum(1)) / n_beta
    b, a = torch.meshgrid(beta, alpha, indexing="ij")
    points = torch.stack([torch.sin(b) * torch.cos(a), torch.sin(b) * torch.sin(a), torch.cos(b)], dim=2)
    harmonics = spherical_harmonics(points.flatten(0, 1), degree)
    degrees = torch.cat([torch.full((2 * k + 1,), k, dtype=torch.float64) for k in range(degree + 1)])
    scale = torch.sqrt((2 * degrees + 1) * (degree + 1))[:, None]
    return harmonics / scale, harmonics * scale * weights.repeat_interleave(n_alpha) / n_alpha


class SphereActivation(nn.Module):
    """l = 0 is silu of additional scalars; l > 0 are projected from silu of the values on a grid (EquiformerV2).

    Channels that a degree lacks count as zero there (our choice).

    Args:
        channels: of each degree 0 .. L.
        n_beta, n_alpha: numbers of polar angles and of azimuths of the grid.

    Attributes:
        scalars: number of additional scalars.

    Raises:
        ConfigError: a grid that is too coarse for L.
    """

    def __init__(self, channels: Sequence[int], n_beta: int, n_alpha: int):
        super().__init__()
        self.channels = list(channels)
        self.scalars = channels[0]
        to_grid, from_grid = sphere_grid(len(channels) - 1, n_beta, n_alpha)
        self.to_grid, self.from_grid = Constant(to_grid.T), Constant(from_grid)

    @full_precision
    def forward(
        self, x: list[Float[Tensor, "n _m _c"]], scalars: Float[Tensor, "n scalars"]
    ) -> list[Float[Tensor, "n _m _c"]]:
        widest = max(self.channels)
        padded = [pad(part, (0, widest - count)) for part, count in zip(x, self.channels, strict=True)]
        components = torch.cat(padded, dim=1)
        values = silu(self.to_grid(components) @ components)
        back = self.from_grid(components) @ values
        parts = [back[:, degree**2 : (degree + 1) ** 2, :count] for degree, count in enumerate(self.channels)]
        return [silu(scalars)[:, None], *parts[1:]]
