"""Derivatives of the rotation matrices of frames that follow their edges."""

import torch
from jaxtyping import Float
from torch import Tensor


class Following(torch.autograd.Function):
    """Matrices D(R) of frames R that follow their edges v: dD = sum_k w_k J_k D with w = v x dv / |v|^2.

    J_k are the generators of rotations about x, y and z. Another gauge would add a component along v to w; it changes
    no derivative, of any order, of a quantity that does not depend on the gauge. An edge without a direction keeps
    the global frame.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(vectors: Tensor, matrix: Tensor, generators: Tensor) -> Tensor:
        return matrix.clone()

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], output, inputs[2])
        ctx.save_for_forward(inputs[0], output, inputs[2])

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return of_vectors(gradient, *ctx.saved_tensors), None, None

    @staticmethod
    def jvp(ctx, tangent: Tensor, *_: Tensor | None) -> Tensor:
        vectors, matrix, generators = ctx.saved_tensors
        rotation = torch.linalg.cross(vectors, tangent) * _inverse_square(vectors)
        return torch.einsum("...k,kij,...jm->...im", rotation, generators, matrix)


def of_vectors(
    gradient: Float[Tensor, "*edges m m"],
    vectors: Float[Tensor, "*edges 3"],
    matrix: Float[Tensor, "*edges m m"],
    generators: Float[Tensor, "3 m m"],
) -> Float[Tensor, "*edges 3"]:
    """The gradient of the vectors from that of the matrices: (torque x v) / |v|^2."""
    torque = torch.einsum("...im,kij,...jm->...k", gradient, generators, matrix)
    return torch.linalg.cross(torque, vectors) * _inverse_square(vectors)


def _inverse_square(vectors: Float[Tensor, "*edges 3"]) -> Float[Tensor, "*edges 1"]:
    """1 / |v|^2, and 0 for the zero vector."""
    square = vectors.square().sum(-1, keepdim=True)
    directed = square > 0
    return torch.where(directed, 1 / torch.where(directed, square, 1.0), 0.0)
