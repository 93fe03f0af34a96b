"""Random rotations by which the second stage of HarmoSE learns equivariance, one for each graph and training step."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tracegrad.errors import ConfigError
from tracegrad.numerics.rotations import of_quaternions

# Largest angle in units of pi before averaging, for the two forms of the authors' later trainer.
BOUNDS = {"weak": 0.2, "strong": 0.5}
# Share of the training after which the rotations of each kind begin: those of the same trainer, and our choice.
STARTS = {"none": 1.0, "weak": 0.6, "strong": 0.7, "uniform": 0.0}
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
        start: share of the training, from 0 to 1, after which rotations begin; None: that of `STARTS`.

    Attributes:
        active: whether rotations have begun. A training sets it (`at_progress`); without one they have.
        mean: the running mean b; a buffer, so that a resumed training continues with it.

    Raises:
        ConfigError: another kind or start.
    """

    def __init__(self, kind: str, start: float | None = None):
        super().__init__()
        if kind not in STARTS:
            raise ConfigError(f"model.backbone.augmentation is {kind!r}; choose from {', '.join(STARTS)}")
        if start is not None and (
            not isinstance(start, int | float) or isinstance(start, bool) or not 0 <= start <= 1
        ):
            raise ConfigError(
                f"model.backbone.augmentation_start is {start!r}; give a share of the training from 0 to 1, or null"
            )
        self.kind = kind
        self.start = STARTS[kind] if start is None else start
        self.active = kind != "none"
        self.register_buffer("mean", torch.zeros(3))
        self.mean: Tensor

    def at_progress(self, share: float) -> None:
        """Begin or not, after this share of a training."""
        self.active = self.kind != "none" and share >= self.start

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
