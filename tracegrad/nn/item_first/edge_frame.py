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

from jaxtyping import Float
from torch import Tensor

from tracegrad.numerics.precision import full_precision
from tracegrad.ops.edge_rotation.edge_rotation import edge_rotation


class EdgeFrame:
    """Rotation matrices of all irreps for a set of edges.

    Args:
        vectors: x, y, z of each edge in any unit of length. A zero vector (an on-site edge) has the global frame.
    """

    def __init__(self, vectors: Float[Tensor, "edges 3"]):
        self._vectors = vectors
        self._matrices: dict[tuple[int, int], Tensor] = {}

    def part(self, edges: slice) -> "EdgeFramePart":
        """The frames of some of the edges; matrices are computed once for all edges and shared."""
        return EdgeFramePart(self, edges)

    @full_precision
    def to_local(self, x: Float[Tensor, "edges m c"], degree: int, parity: int) -> Float[Tensor, "edges m c"]:
        """Components of an irrep in the frame of each edge, from those in the global frame."""
        return x if degree == 0 else self.rotation(degree, parity).transpose(1, 2) @ x

    @full_precision
    def to_global(
        self, x: Float[Tensor, "edges m c"], degree: int, parity: int
    ) -> Float[Tensor, "edges m c"]:
        """The inverse of `to_local`."""
        return x if degree == 0 else self.rotation(degree, parity) @ x

    def rotation(self, degree: int, parity: int) -> Float[Tensor, "edges m m"]:
        """Matrices D [edges, m', m] of an irrep, from the frame of each edge to the global frame."""
        if (degree, parity) not in self._matrices:
            self._matrices[degree, parity] = edge_rotation(self._vectors, degree, parity)
        return self._matrices[degree, parity]


class EdgeFramePart(EdgeFrame):
    """The frames of consecutive edges; see `EdgeFrame.part`."""

    def __init__(self, whole: EdgeFrame, edges: slice):
        self._whole, self._edges = whole, edges

    def rotation(self, degree: int, parity: int) -> Float[Tensor, "edges m m"]:
        return self._whole.rotation(degree, parity)[self._edges]
