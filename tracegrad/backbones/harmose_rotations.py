"""Random rotations by which the second stage of HarmoSE learns equivariance, one for each graph and training step."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tracegrad.errors import ConfigError

# Largest angle in units of pi before averaging, for the two forms of the authors' later trainer.
BOUNDS = {"weak": 0.2, "strong": 0.5}
KINDS = ("none", *BOUNDS, "uniform")
KEPT = 0.7  # share of the running mean that a new draw keeps


class RandomRotations(nn.Module):
    """Draws rotations from torch's random numbers.

    "weak" and "strong" are those of the authors' later trainer (stated there, not in the paper): three angles, normal
    numbers between -0.2 and 0.2 or -0.5 and 0.5, move a running mean b = 0.7 b + 0.3 a, and the rotation is
    Rz(pi b3) Ry(pi b2) Rx(pi b1). It thus changes slowly from step to step, and large rotations never occur. The
    graphs of a batch follow one another as if each were a step. "uniform" (our choice) draws each rotation uniformly
    from all rotations.

    Args:
        kind: none | weak | strong | uniform.

    Attributes:
        mean: the running mean b; a buffer, so that a resumed training continues with it.

    Raises:
        ConfigError: another kind.
    """

    def __init__(self, kind: str):
        super().__init__()
        if kind not in KINDS:
            raise ConfigError(f"model.backbone.augmentation is {kind!r}; choose from {', '.join(KINDS)}")
        self.kind = kind
        self.register_buffer("mean", torch.zeros(3))
        self.mean: Tensor

    @torch.no_grad()
    def forward(self, graphs: int) -> Float[Tensor, "graphs 3 3"]:
        """Rotation matrices of vectors (x, y, z), in the dtype of the network. Not for the kind "none"."""
        if self.kind == "uniform":
            return of_quaternions(torch.randn(graphs, 4, dtype=self.mean.dtype, device=self.mean.device))
        uniform = torch.rand(graphs, 3, dtype=self.mean.dtype, device=self.mean.device)
        b = running_means(self.mean, truncated_normal(uniform, BOUNDS[self.kind]))
        self.mean.copy_(b[-1])
        return of_angles(math.pi * b)


def truncated_normal(uniform: Float[Tensor, "*n"], bound: float) -> Float[Tensor, "*n"]:
    """Standard normal numbers between -bound and bound, from uniform ones between 0 and 1."""
    return math.sqrt(2) * torch.erfinv((2 * uniform - 1) * math.erf(bound / math.sqrt(2)))


def running_means(start: Float[Tensor, " 3"], a: Float[Tensor, "graphs 3"]) -> Float[Tensor, "graphs 3"]:
    """b_g = 0.7 b_(g - 1) + 0.3 a_g, beginning with ``start``, as a sum over all draws before g."""
    at = torch.arange(len(a), device=a.device, dtype=a.dtype)
    passed = at[:, None] - at
    weights = torch.where(passed >= 0, KEPT ** passed.clamp_min(0), 0.0)
    return KEPT ** (at[:, None] + 1) * start + (1 - KEPT) * weights @ a


def of_angles(angles: Float[Tensor, "graphs 3"]) -> Float[Tensor, "graphs 3 3"]:
    """Rz(c) Ry(b) Rx(a) of angles (a, b, c) in radians."""
    x, y, z = (about(axis, angles[:, axis]) for axis in range(3))
    return z @ y @ x


def about(axis: int, angle: Float[Tensor, " graphs"]) -> Float[Tensor, "graphs 3 3"]:
    """Rotation about x, y or z (axis 0, 1, 2)."""
    one, zero = torch.ones_like(angle), torch.zeros_like(angle)
    cos, sin = torch.cos(angle), torch.sin(angle)
    # About z; about another axis the same with its coordinates moved on.
    rows = [[cos, -sin, zero], [sin, cos, zero], [zero, zero, one]]
    order = [(i - axis + 2) % 3 for i in range(3)]
    return torch.stack([torch.stack([rows[i][j] for j in order], dim=1) for i in order], dim=1)


def of_quaternions(q: Float[Tensor, "graphs 4"]) -> Float[Tensor, "graphs 3 3"]:
    """Rotations of quaternions (w, x, y, z) of any length; uniform for normal numbers."""
    w, x, y, z = (q / q.norm(dim=1, keepdim=True)).unbind(1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
