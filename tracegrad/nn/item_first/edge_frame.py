"""The frame of an edge: rotations that bring each edge onto the polar axis z.

             z                         z' along the edge
             |   edge                  |
             |  /                      |
             | / polar                 |            frame = R_z(azimuth) R_y(polar),
             |/_____ y                 |_____ y'    x_global = D(frame) x_local
            /  azimuth (from x)       /
           x                         x'

In that frame the spherical harmonics of the edge vanish except for m = 0, so a tensor product with them couples the
component m of one irrep to the component m of another if parities fit (l1 + l2 + l3 even), and otherwise to -m, with
opposite signs for +m and -m. Irreps of *unnatural* parity, p = -(-1)^l, are therefore stored with their components
exchanged, y'_m = y_-m and y'_-m = -y_m for m > 0: then every coupling is from m to m, with one coefficient for +m and
-m. The exchange is orthogonal, so that it changes neither inner products nor linear maps of channels.

A frame is fixed up to a rotation about its edge, on which nothing that a network returns depends. The derivatives of
its angles diverge where an edge is along z; the derivatives of the matrices are therefore taken in the gauge in which
the frame follows its edge without rotating about it (see `_Following`). It is regular for every edge that has a
direction.

Features are item-first, x[e, l + m, c] of shape [edges, 2l + 1, channels].
"""

from functools import lru_cache

import torch
from e3nn.o3 import Irrep
from jaxtyping import Float
from torch import Tensor

from tracegrad.nn.component_first.features import spherical_harmonics
from tracegrad.numerics.constants import Constant
from tracegrad.numerics.precision import full_precision
from tracegrad.ops import native


def is_natural(ir: Irrep) -> bool:
    """Whether the parity is (-1)^l, as that of the spherical harmonics."""
    return ir.p == (-1) ** ir.l


class EdgeFrame:
    """Rotation matrices of all irreps for a set of edges.

    Args:
        vectors: x, y, z of each edge in any unit of length. A zero vector (an on-site edge) has the global frame.
    """

    def __init__(self, vectors: Float[Tensor, "edges 3"]):
        x, y, z = vectors.detach().unbind(1)
        self._vectors = vectors
        self._azimuth = torch.atan2(y, x)[:, None]
        self._polar = torch.atan2(torch.hypot(x, y), z)[:, None]
        self._matrices: dict[tuple[int, bool], Tensor] = {}

    def part(self, edges: slice) -> "EdgeFramePart":
        """The frames of some of the edges; matrices are computed once for all edges and shared."""
        return EdgeFramePart(self, edges)

    @full_precision
    def to_local(self, x: Float[Tensor, "edges m c"], ir: Irrep) -> Float[Tensor, "edges m c"]:
        """Components in the frame of each edge, from those in the global frame."""
        return x if ir.l == 0 else self.rotation(ir).transpose(1, 2) @ x

    @full_precision
    def to_global(self, x: Float[Tensor, "edges m c"], ir: Irrep) -> Float[Tensor, "edges m c"]:
        """The inverse of `to_local`."""
        return x if ir.l == 0 else self.rotation(ir) @ x

    def rotation(self, ir: Irrep) -> Float[Tensor, "edges m m"]:
        """Matrices D [edges, m', m] from the frame of each edge to the global frame."""
        key = (ir.l, is_natural(ir))
        if key not in self._matrices:
            self._matrices[key] = self._natural(ir.l) if key[1] else self._exchanged(ir.l)
        return self._matrices[key]

    def _natural(self, degree: int) -> Float[Tensor, "edges m m"]:
        """Matrices of the irrep with natural parity; differentiable if the vectors are."""
        matrix = _wigner(self._azimuth, self._polar, degree)
        differentiable = self._vectors.requires_grad or native.transformed()
        return _Following.apply(self._vectors, matrix) if differentiable else matrix

    def _exchanged(self, degree: int) -> Float[Tensor, "edges m m"]:
        """Matrices of the irrep with unnatural parity, whose local components are exchanged."""
        matrix = self.rotation(Irrep(degree, (-1) ** degree))
        sign = torch.ones(2 * degree + 1, dtype=matrix.dtype, device=matrix.device)
        sign[:degree] = -1
        flipped = matrix.flip(2) * sign
        flipped[:, :, degree] = matrix[:, :, degree]
        return flipped


class EdgeFramePart(EdgeFrame):
    """The frames of consecutive edges; see `EdgeFrame.part`."""

    def __init__(self, whole: EdgeFrame, edges: slice):
        self._whole, self._edges = whole, edges

    def rotation(self, ir: Irrep) -> Float[Tensor, "edges m m"]:
        return self._whole.rotation(ir)[self._edges]


class _Following(torch.autograd.Function):
    """Matrices D(R) of frames R that follow their edges v: dD = sum_k w_k J_k D with w = v x dv / |v|^2.

    J_k are the generators of rotations about x, y and z. Another gauge would add a component along v to w; it changes
    no derivative, of any order, of a quantity that does not depend on the gauge. An edge without a direction keeps
    the global frame.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(vectors: Float[Tensor, "edges 3"], matrix: Float[Tensor, "edges m m"]) -> Tensor:
        return matrix.clone()

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], output)
        ctx.save_for_forward(inputs[0], output)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        vectors, matrix = ctx.saved_tensors
        torque = torch.einsum("...im,kij,...jm->...k", gradient, _generators(matrix), matrix)
        return torch.linalg.cross(torque, vectors) * _inverse_square(vectors), None

    @staticmethod
    def jvp(ctx, of_vectors: Tensor, _: Tensor | None) -> Tensor:
        vectors, matrix = ctx.saved_tensors
        rotation = torch.linalg.cross(vectors, of_vectors) * _inverse_square(vectors)
        return torch.einsum("...k,kij,...jm->...im", rotation, _generators(matrix), matrix)


def _inverse_square(vectors: Float[Tensor, "*edges 3"]) -> Float[Tensor, "*edges 1"]:
    """1 / |v|^2, and 0 for the zero vector."""
    square = vectors.square().sum(-1, keepdim=True)
    directed = square > 0
    return torch.where(directed, 1 / torch.where(directed, square, 1.0), 0.0)


def _generators(matrix: Float[Tensor, "*edges m m"]) -> Float[Tensor, "3 m m"]:
    return _generators_of((matrix.shape[-1] - 1) // 2)(matrix)


@lru_cache(maxsize=32)
def _generators_of(degree: int) -> Constant:
    """dD/da at a = 0 of rotations by the angle a about x, y and z."""
    with torch.inference_mode(False):
        exchange = _axis_exchange(degree)(torch.empty(0, dtype=torch.float64))
        m = torch.arange(-degree, degree + 1, dtype=torch.float64)
        about_z = -torch.diag(m).flip(1)
        about_y = exchange @ about_z @ exchange.T
        about_x = exchange @ about_y @ exchange.T
        return Constant(torch.stack([about_x, about_y, about_z]))


@full_precision
def _wigner(
    azimuth: Float[Tensor, "edges 1"], polar: Float[Tensor, "edges 1"], degree: int
) -> Float[Tensor, "edges m m"]:
    """D(R_z(azimuth) R_y(polar)) = Z(azimuth) J Z(polar) J^T, see `_axis_exchange`."""
    m = torch.arange(degree + 1, device=polar.device)
    waves = torch.cat([torch.cos(m * polar), torch.sin(m[1:] * polar)], dim=1)
    about_y = (waves @ _polar_rotations(degree)(polar)).unflatten(1, (2 * degree + 1, 2 * degree + 1))
    return _about_axis(azimuth, about_y, degree)


@lru_cache(maxsize=32)
def _polar_rotations(degree: int) -> Constant:
    """J Z(polar) J^T as coefficients [2l + 1, m' m] of cos(m polar), m = 0 .. l, and sin(m polar), m = 1 .. l."""
    with torch.inference_mode(False):
        exchange = _axis_exchange(degree)(torch.empty(0, dtype=torch.float64))
        parts = exchange.new_zeros(2 * degree + 1, 2 * degree + 1, 2 * degree + 1)
        parts[0, degree, degree] = 1
        for m in range(1, degree + 1):
            for sign in (-1, 1):
                parts[m, degree + sign * m, degree + sign * m] = 1
                parts[degree + m, degree + sign * m, degree - sign * m] = -sign
        return Constant((exchange @ parts @ exchange.T).flatten(1))


def _about_axis(
    angle: Float[Tensor, "edges 1"], x: Float[Tensor, "edges m k"], degree: int
) -> Float[Tensor, "edges m k"]:
    """Rotation about the polar axis: cos(m a) x_m - sin(m a) x_-m."""
    m = torch.arange(-degree, degree + 1, device=angle.device)
    return torch.cos(m * angle)[:, :, None] * x - torch.sin(m * angle)[:, :, None] * x.flip(1)


@lru_cache(maxsize=32)
def _axis_exchange(degree: int) -> Constant:
    """J, the Wigner matrix of the rotation R: z -> y -> x -> z; J Z(a) J^T is a rotation about y by the angle a.

    It is the solution of Y(R r) = J Y(r) for the spherical harmonics Y of some points r.
    """
    with torch.inference_mode(False):
        points = torch.randn(
            4 * degree + 8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
        )
        before, after = (
            spherical_harmonics(p, degree)[degree**2 :].T for p in (points, points[:, [1, 2, 0]])
        )
        return Constant(torch.linalg.lstsq(before, after).solution.T)
