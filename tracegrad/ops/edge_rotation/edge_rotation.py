"""The operator of rotation matrices from the frames of edges to the global frame.

With the azimuth a and the polar angle p of an edge, and T_q the matrices of a table (`tables`), an irrep of degree l
has

    Y = sum over q = 0 .. l of T_q cos(q p)  +  sum over q = 1 .. l of T_{l + q} sin(q p)
    D[m', m] = cos(m' a) Y[m', m] - sin(m' a) Y[-m', m]                    m, m' = -l .. l

The derivatives are those of frames that follow their edges without rotating about them (`Following`); they are
regular for every edge that has a direction, where those of the angles are not.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tracegrad.numerics.precision import full_precision
from tracegrad.ops.edge_rotation import gpu
from tracegrad.ops.edge_rotation.following import Following, of_vectors
from tracegrad.ops.edge_rotation.tables import generators, polar_waves
from tracegrad.ops.errors import OperatorArgumentError
from tracegrad.ops.operator import Operator


@full_precision
def edge_rotation(vectors: Float[Tensor, "edges 3"], degree: int, parity: int) -> Float[Tensor, "edges m m"]:
    """The matrices of one irrep; columns are components in the frame of the edge.

    Args:
        vectors: x, y, z of each edge. A zero vector has the global frame.
        degree: l.
        parity: 1 or -1; components of irreps of unnatural parity are exchanged in the frame of the edge.

    Raises:
        OperatorArgumentError: vectors that are not [edges, 3], or another degree or parity.
    """
    return EDGE_ROTATION(vectors, degree, parity)


def _plain(vectors: Tensor, degree: int, parity: int) -> Tensor:
    matrices = _matrices(vectors.detach(), degree, parity)
    return Following.apply(vectors, matrices, generators(degree)(vectors))


def _matrices(vectors: Tensor, degree: int, parity: int) -> Tensor:
    table = polar_waves(degree, parity)(vectors)
    x, y, z = vectors.unbind(1)
    azimuth, polar = torch.atan2(y, x)[:, None], torch.atan2(torch.hypot(x, y), z)[:, None]
    m = torch.arange(-degree, degree + 1, device=vectors.device)
    waves = torch.cat([torch.cos(m[degree:] * polar), torch.sin(m[degree + 1 :] * polar)], dim=1)
    about_y = (waves @ table.flatten(1)).unflatten(1, table.shape[1:])
    return torch.cos(m * azimuth)[:, :, None] * about_y - torch.sin(m * azimuth)[:, :, None] * about_y.flip(1)


def _on_gpu(vectors: Tensor, degree: int, parity: int) -> Tensor:
    return gpu.edge_rotation(vectors, polar_waves(degree, parity)(vectors))


def _gradient(
    gradients: Sequence[Tensor], vectors: Tensor, degree: int, parity: int, needed: Sequence[bool]
) -> list[Tensor]:
    """The gradient for both devices."""
    form = _on_gpu if vectors.device.type == "cuda" else _matrices
    matrices = form(vectors, degree, parity)
    return [of_vectors(gradients[0], vectors, matrices, generators(degree)(vectors))]


def _outputs(vectors: Tensor, degree: int, parity: int) -> Tensor:
    return vectors.new_empty(vectors.shape[0], 2 * degree + 1, 2 * degree + 1)


def _check(vectors: Tensor, degree: int, parity: int) -> None:
    if vectors.ndim != 2 or vectors.shape[1] != 3 or degree < 0 or parity not in (1, -1):
        raise OperatorArgumentError(
            f"edge rotations: vectors {tuple(vectors.shape)}, degree {degree}, parity {parity}; "
            "vectors (edges, 3), a degree >= 0 and parity 1 or -1 are needed"
        )


EDGE_ROTATION = Operator(
    "edge_rotation", "Tensor vectors, int degree, int parity", _plain, _outputs, check=_check
)
EDGE_ROTATION.register("CPU", _matrices, _gradient)
EDGE_ROTATION.register("CUDA", _on_gpu, _gradient)
