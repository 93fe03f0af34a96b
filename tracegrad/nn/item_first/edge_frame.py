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
the frame follows its edge without rotating about it (`ops.edge_rotation`). It is regular for every edge that has a
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
from tracegrad.ops.edge_rotation.edge_rotation import edge_rotation


def is_natural(ir: Irrep) -> bool:
    """Whether the parity is (-1)^l, as that of the spherical harmonics."""
    return ir.p == (-1) ** ir.l


class EdgeFrame:
    """Rotation matrices of all irreps for a set of edges.

    Args:
        vectors: x, y, z of each edge in any unit of length. A zero vector (an on-site edge) has the global frame.
    """

    def __init__(self, vectors: Float[Tensor, "edges 3"]):
        self._vectors = vectors
        self._matrices: dict[Irrep, Tensor] = {}

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
        if ir not in self._matrices:
            self._matrices[ir] = _rotation(self._vectors, ir)
        return self._matrices[ir]


class EdgeFramePart(EdgeFrame):
    """The frames of consecutive edges; see `EdgeFrame.part`."""

    def __init__(self, whole: EdgeFrame, edges: slice):
        self._whole, self._edges = whole, edges

    def rotation(self, ir: Irrep) -> Float[Tensor, "edges m m"]:
        return self._whole.rotation(ir)[self._edges]


@full_precision
def _rotation(vectors: Float[Tensor, "edges 3"], ir: Irrep) -> Float[Tensor, "edges m m"]:
    return edge_rotation(vectors, *rotation_tables(ir, vectors))


def rotation_tables(ir: Irrep, like: Tensor) -> tuple[Float[Tensor, "m m m"], Float[Tensor, "3 m m"]]:
    """Table and generators for `edge_rotation`, in the dtype and on the device of a tensor."""
    return _polar_rotations(ir)(like), _generators(ir.l)(like)


@lru_cache(maxsize=32)
def _generators(degree: int) -> Constant:
    """dD/da at a = 0 of rotations by the angle a about x, y and z."""
    with torch.inference_mode(False):
        exchange = _axis_exchange(degree)(torch.empty(0, dtype=torch.float64))
        m = torch.arange(-degree, degree + 1, dtype=torch.float64)
        about_z = -torch.diag(m).flip(1)
        about_y = exchange @ about_z @ exchange.T
        about_x = exchange @ about_y @ exchange.T
        return Constant(torch.stack([about_x, about_y, about_z]))


@lru_cache(maxsize=32)
def _polar_rotations(ir: Irrep) -> Constant:
    """Rotations about y as coefficients [2l + 1, m', m] of cos(q polar), q = 0 .. l, and of sin(q polar), q = 1 .. l.

    They are J Z(polar) J^T, see `_axis_exchange`, with the local components of irreps of unnatural parity exchanged.
    """
    degree = ir.l
    with torch.inference_mode(False):
        exchange = _axis_exchange(degree)(torch.empty(0, dtype=torch.float64))
        parts = exchange.new_zeros(2 * degree + 1, 2 * degree + 1, 2 * degree + 1)
        parts[0, degree, degree] = 1
        for q in range(1, degree + 1):
            for sign in (-1, 1):
                parts[q, degree + sign * q, degree + sign * q] = 1
                parts[degree + q, degree + sign * q, degree - sign * q] = -sign
        table = exchange @ parts @ exchange.T
        if is_natural(ir):
            return Constant(table)
        exchanged = table.flip(2)
        exchanged[..., :degree] *= -1
        return Constant(exchanged)


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
