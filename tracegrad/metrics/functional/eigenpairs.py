"""The lowest eigenpairs of symmetric matrices that are nearly diagonal.

In the basis of the reference orbitals a good prediction is nearly diagonal. The space of its lowest states is then
spanned by the columns of [1; X] with a small X, which solves A_qp + A_qq X - X (A_pp + A_pq X) = 0 (p: the wanted
diagonal elements, q: the others) and is found with a few matrix products in place of a diagonalisation; products and
Cholesky factors of many matrices at once are what a GPU is best at.

Nothing is taken on trust: residuals are computed, and a Cholesky factor of the matrix with the found states lifted
shows that no other state lies below them. Matrices that fail go to `torch.linalg.eigh`.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# Norm of A y - theta y over all wanted states. Errors of energies are of the size of its square over the distance to
# the next state.
RESIDUAL = 1e-7
MARGIN = 1e-8  # no other state lies lower than the highest wanted one by more
STEPS = 16
PROGRESS = 0.5  # residual of a step over that of the step before it, at most
SMALLEST = 64  # smaller matrices are diagonalised as fast


def lowest_eigenpairs(
    a: Float[Tensor, "batch n n"], count: int
) -> tuple[Float[Tensor, "batch count"], Float[Tensor, "batch n count"]]:
    """The ``count`` lowest eigenvalues, ascending, and their orthonormal eigenvectors (columns); float64."""
    batch, n, _ = a.shape
    if n < SMALLEST or 2 * count > n:
        values, vectors = torch.linalg.eigh(a)
        return values[:, :count], vectors[:, :, :count]
    values, vectors, sure = _decoupled(a, count)
    others = (~sure).nonzero().flatten()
    if len(others):
        all_values, all_vectors = torch.linalg.eigh(a if len(others) == batch else a[others])
        values[others], vectors[others] = all_values[:, :count], all_vectors[:, :, :count]
    return values, vectors


def _decoupled(
    a: Float[Tensor, "batch n n"], m: int
) -> tuple[Float[Tensor, "batch m"], Float[Tensor, "batch n m"], Bool[Tensor, " batch"]]:
    """Eigenpairs, and for which matrices they are the wanted ones."""
    pp, pq, qp, qq = (part.contiguous() for part in (a[:, :m, :m], a[:, :m, m:], a[:, m:, :m], a[:, m:, m:]))
    diagonal = a.diagonal(dim1=1, dim2=2)
    step = 1 / (diagonal[:, None, :m] - diagonal[:, m:, None])
    x, residual = torch.zeros_like(qp), qp
    norm = torch.linalg.matrix_norm(residual)
    running = torch.ones_like(norm, dtype=torch.bool)
    for _ in range(STEPS):
        x = torch.addcmul(x, residual, step)
        top, bottom = torch.baddbmm(pp, pq, x), torch.baddbmm(qp, qq, x)  # A [1; X]
        residual = torch.baddbmm(bottom, x, top, alpha=-1)
        before, norm = norm, torch.linalg.matrix_norm(residual)
        running = running & (norm > RESIDUAL) & (norm < PROGRESS * before)
        if not running.any():
            break
        step = step * running[:, None, None]  # what has left the reach of the method must not overflow
    return _rayleigh_ritz(a, x, top, bottom, norm)


def _rayleigh_ritz(
    a: Float[Tensor, "batch n n"],
    x: Float[Tensor, "batch q m"],
    top: Float[Tensor, "batch m m"],
    bottom: Float[Tensor, "batch q m"],
    norm: Float[Tensor, " batch"],
) -> tuple[Float[Tensor, "batch m"], Float[Tensor, "batch n m"], Bool[Tensor, " batch"]]:
    """The states in the space of [1; X], whose image under A is [top; bottom]."""
    m = x.shape[2]
    one = torch.eye(m, dtype=x.dtype, device=x.device)
    usable = (norm < 1)[:, None, None]
    x, bottom, top = torch.where(usable, x, 0), torch.where(usable, bottom, 0), torch.where(usable, top, one)
    factor = torch.linalg.cholesky(one + x.mT @ x)
    inverse = torch.linalg.solve_triangular(factor, one.expand_as(top), upper=False)
    values, rotation = torch.linalg.eigh(inverse @ (top + x.mT @ bottom) @ inverse.mT)
    rotation = inverse.mT @ rotation
    vectors = torch.cat([rotation, x @ rotation], dim=1)
    residual = torch.cat([top @ rotation, bottom @ rotation], dim=1) - vectors * values[:, None]
    # The found states at 1 above the bound, all others where they are: positive definite if none lies below it.
    bound = values[:, -1] - MARGIN
    lifted = torch.baddbmm(a, vectors * (bound[:, None] + 1 - values)[:, None], vectors.mT)
    lifted.diagonal(dim1=1, dim2=2).sub_(bound[:, None])
    failed = torch.linalg.cholesky_ex(lifted).info != 0
    return values, vectors, (torch.linalg.matrix_norm(residual) < 2 * RESIDUAL) & ~failed
