"""The operator of rotation matrices from the frames of edges to the global frame.

With the azimuth a and the polar angle p of an edge, and T_q the matrices of a table, an irrep of degree l has

    Y = sum over q = 0 .. l of T_q cos(q p)  +  sum over q = 1 .. l of T_{l + q} sin(q p)
    D[m', m] = cos(m' a) Y[m', m] - sin(m' a) Y[-m', m]                    m, m' = -l .. l

The derivatives are those of frames that follow their edges without rotating about them (`Following`); they are
regular for every edge that has a direction, where those of the angles are not.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tracegrad.ops.edge_rotation import gpu
from tracegrad.ops.edge_rotation.following import Following, of_vectors
from tracegrad.ops.errors import OperatorArgumentError
from tracegrad.ops.operator import Operator


def edge_rotation(
    vectors: Float[Tensor, "edges 3"],
    table: Float[Tensor, "harmonics m m"],
    generators: Float[Tensor, "3 m m"],
) -> Float[Tensor, "edges m m"]:
    """The matrices of one irrep.

    Args:
        vectors: x, y, z of each edge. A zero vector has the global frame.
        table: T_q, numbered 0 .. 2l.
        generators: of rotations about x, y and z, on which only derivatives depend.

    Raises:
        OperatorArgumentError: tensors whose shapes do not fit.
    """
    return EDGE_ROTATION(vectors, table, generators)


def _plain(vectors: Tensor, table: Tensor, generators: Tensor) -> Tensor:
    return Following.apply(vectors, _matrices(vectors.detach(), table), generators)


def _matrices(vectors: Tensor, table: Tensor, generators: Tensor | None = None) -> Tensor:
    degree = len(table) // 2
    x, y, z = vectors.unbind(1)
    azimuth, polar = torch.atan2(y, x)[:, None], torch.atan2(torch.hypot(x, y), z)[:, None]
    m = torch.arange(-degree, degree + 1, device=vectors.device)
    waves = torch.cat([torch.cos(m[degree:] * polar), torch.sin(m[degree + 1 :] * polar)], dim=1)
    about_y = (waves @ table.flatten(1)).unflatten(1, table.shape[1:])
    return torch.cos(m * azimuth)[:, :, None] * about_y - torch.sin(m * azimuth)[:, :, None] * about_y.flip(1)


def _gradient(
    gradients: Sequence[Tensor], vectors: Tensor, table: Tensor, generators: Tensor, needed: Sequence[bool]
) -> list[Tensor] | None:
    """The gradient for both devices; `covers` keeps tables from having one."""
    if any(needed[1:]):
        return None
    form = gpu.edge_rotation if vectors.device.type == "cuda" else _matrices
    return [of_vectors(gradients[0], vectors, form(vectors, table, generators), generators)]


def _outputs(vectors: Tensor, table: Tensor, generators: Tensor) -> Tensor:
    return vectors.new_empty(len(vectors), *table.shape[1:])


def _check(vectors: Tensor, table: Tensor, generators: Tensor) -> None:
    m = len(table) if table.ndim else 0
    if (
        vectors.ndim != 2
        or vectors.shape[1] != 3
        or m % 2 == 0
        or table.shape != (m, m, m)
        or generators.shape != (3, m, m)
        or not vectors.dtype == table.dtype == generators.dtype
    ):
        raise OperatorArgumentError(
            f"edge rotations: vectors {tuple(vectors.shape)}, table {tuple(table.shape)}, generators "
            f"{tuple(generators.shape)} in {vectors.dtype}, {table.dtype}, {generators.dtype}; (edges, 3), (m, m, m) "
            "and (3, m, m) in one dtype are needed, with m odd"
        )


def _covers(vectors: Tensor, table: Tensor, generators: Tensor) -> bool:
    return not (table.requires_grad or generators.requires_grad)


EDGE_ROTATION = Operator(
    "edge_rotation",
    "Tensor vectors, Tensor table, Tensor generators",
    _plain,
    _outputs,
    check=_check,
    covers=_covers,
)
EDGE_ROTATION.register("CPU", _matrices, _gradient)
EDGE_ROTATION.register("CUDA", gpu.edge_rotation, _gradient)
