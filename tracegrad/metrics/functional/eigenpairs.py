"""The lowest states of predicted Hamiltonians that are close to solved references.

In the basis of the reference orbitals C a prediction H' = H + E is nearly diagonal: A = C^T H' C = eps + C^T E C. The
space of its lowest states is spanned by the rows of [1, X] with a small X, which solves
A_pq + X A_qq - (A_pp + X A_qp) X = 0 (p: the wanted states, q: the others). Conjugate gradients find it in single
precision. The energies are those of A in this space, in double precision, and one step of Newton's method with the
diagonal of A_qq improves the orbitals. States stand in rows: few columns make slow products.

Nothing is taken on trust: residuals are computed in double precision, and A is shown to have no other state below.
Matrices that fail go to `torch.linalg.eigh`.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tracegrad.metrics.functional.eigenpairs_kernel import decoupled

CONVERGED = 1e-7  # hartree, norm of A_pq + X A_qq - (A_pp + X A_qp) X: about what single precision reaches
# Norm of A y - theta y over all wanted states, before the last step. Errors of energies are of the size of its square
# over the distance to the next state.
RESIDUAL = 2e-6
MARGIN = 1e-4  # all other states are shown to lie higher than the wanted ones by so much, in single precision
STEPS = 20
PROGRESS = 0.5  # residual of a step over that of the step before it, on average at most
# The highest wanted states and the next ones, from which they would be decoupled slowly, are diagonalised first.
BELOW, ABOVE = 2, 10
SMALLEST = 64  # smaller matrices are diagonalised as fast


def lowest_states(
    error: Float[Tensor, "batch n n"],
    energies: Float[Tensor, "batch n"],
    orbitals: Float[Tensor, "batch n n"],
    count: int,
) -> tuple[Float[Tensor, "batch count"], Float[Tensor, "batch count n"]]:
    """Energies and orbitals (rows, in terms of the reference orbitals) of the ``count`` lowest states; float64.

    Args:
        error: E, float64; its symmetric part counts.
        energies: of H, ascending, float64.
        orbitals: of H in columns, C^T S C = 1, float64.
        count: of the wanted states.
    """
    n = error.shape[1]
    if n < SMALLEST or 2 * count > n or not count:
        return _diagonalised(error, energies, orbitals, count)
    values, vectors, sure = _near_reference(error, energies, orbitals, count)
    if not sure.all():
        others = (~sure).nonzero().flatten()
        values[others], vectors[others] = _diagonalised(
            error[others], energies[others], orbitals[others], count
        )
    return values, vectors


def _near_reference(
    error: Float[Tensor, "batch n n"],
    energies: Float[Tensor, "batch n"],
    orbitals: Float[Tensor, "batch n n"],
    count: int,
) -> tuple[Float[Tensor, "batch count"], Float[Tensor, "batch count n"], Bool[Tensor, " batch"]]:
    """Energies and orbitals, and for which matrices they are the wanted ones."""
    window = max(count - BELOW, 0), min(count + ABOVE, error.shape[1])
    limits = CONVERGED, PROGRESS, RESIDUAL, MARGIN
    found = decoupled(error, energies, orbitals, count, window=window, steps=STEPS, limits=limits)
    return found or _decoupled(error, energies, orbitals, count, window)


def _symmetric(error: Float[Tensor, "batch n n"]) -> Float[Tensor, "batch n n"]:
    return (error + error.mT).mul_(0.5)


def _diagonalised(
    error: Float[Tensor, "batch n n"],
    energies: Float[Tensor, "batch n"],
    orbitals: Float[Tensor, "batch n n"],
    count: int,
) -> tuple[Float[Tensor, "batch count"], Float[Tensor, "batch count n"]]:
    a = orbitals.mT @ (_symmetric(error) @ orbitals)
    a.diagonal(dim1=1, dim2=2).add_(energies)
    values, vectors = torch.linalg.eigh(a)
    return values[:, :count], vectors[:, :, :count].mT


def _decoupled(
    error: Float[Tensor, "batch n n"],
    energies: Float[Tensor, "batch n"],
    orbitals: Float[Tensor, "batch n n"],
    p: int,
    window: tuple[int, int],
) -> tuple[Float[Tensor, "batch p"], Float[Tensor, "batch p n"], Bool[Tensor, " batch"]]:
    """The plain form; the states of the window are diagonalised first."""
    error = _symmetric(error)
    start, end = window
    left = orbitals[:, :, :end].mT @ error
    block = left[:, start:] @ orbitals[:, :, start:end]
    block.diagonal(dim1=1, dim2=2).add_(energies[:, start:end])
    levels, turn = torch.linalg.eigh(block)
    levels = torch.cat([energies[:, :start], levels, energies[:, end:]], dim=1)
    frontier = orbitals[:, :, start:end] @ turn

    of_p = torch.cat([left[:, :start], turn.mT[:, : p - start] @ left[:, start:]], dim=1) @ orbitals
    of_p[:, :, start:end] = of_p[:, :, start:end] @ turn
    of_p[:, start:, start:end] = 0
    of_p.diagonal(dim1=1, dim2=2).add_(levels[:, :p])
    pp, pq = of_p[:, :, :p], of_p[:, :, p:]
    of_q = torch.cat([frontier[:, :, p - start :], orbitals[:, :, end:]], dim=2)
    single = of_q.float()
    qq = single.mT @ error.float() @ single  # without the levels
    qq[:, : end - p, : end - p] = 0
    rounded = (pp.float(), pq.float(), qq, levels[:, p:].float())
    x, sure = _conjugate_gradients(*rounded)

    double, turned = x.double(), of_q[:, :, : end - p]
    coupled = double @ of_q.mT @ error @ of_q  # X A_qq without the levels
    coupled[:, :, : end - p] -= double[:, :, : end - p] @ (turned.mT @ error @ turned)
    values, y, residual = _rayleigh_ritz(pp, pq, coupled + double * levels[:, None, p:], double)
    sure &= torch.linalg.matrix_norm(residual) < RESIDUAL
    sure &= _alone(*rounded, x, values[:, -1].float() + MARGIN)
    high = levels[:, p:] + qq.diagonal(dim1=1, dim2=2)
    y[:, :, p:] -= residual[:, :, p:] / (high[:, None] - values[:, :, None])
    y[:, :, start:end] = y[:, :, start:end] @ turn.mT
    return values, y, sure


def _conjugate_gradients(
    pp: Float[Tensor, "batch p p"],
    pq: Float[Tensor, "batch p q"],
    qq: Float[Tensor, "batch q q"],
    levels: Float[Tensor, "batch q"],
) -> tuple[Float[Tensor, "batch p q"], Bool[Tensor, " batch"]]:
    """X, 0 where it is not found, and whether it is; each matrix has its own steps. A_qq is ``qq`` + ``levels``."""
    qp, levels = pq.mT, levels[:, None]
    weight = 1 / (levels + qq.diagonal(dim1=1, dim2=2)[:, None] - pp.diagonal(dim1=1, dim2=2)[:, :, None])
    x, image, inner, residual = torch.zeros_like(pq), torch.zeros_like(pq), pp, pq
    scaled = residual * weight
    slope, direction = _dot(residual, scaled), -scaled
    norm = torch.linalg.matrix_norm(residual)
    running, allowed = norm > CONVERGED, 2 * norm
    for _ in range(STEPS):
        if not running.any():
            break
        turned = torch.baddbmm(direction * levels, direction, qq)
        bend = _dot(direction, torch.baddbmm(turned, inner, direction, alpha=-1))
        step = torch.where(running[:, None, None], slope / bend, 0)
        x, image = torch.addcmul(x, direction, step), torch.addcmul(image, turned, step)  # image: X A_qq
        inner = torch.baddbmm(pp, x, qp)
        residual = torch.baddbmm(pq + image, inner, x, alpha=-1)
        scaled = residual * weight
        before, slope = slope, _dot(residual, scaled)
        direction = torch.addcmul(-scaled, direction, slope / before)
        norm, allowed = torch.linalg.matrix_norm(residual), PROGRESS * allowed
        running = running & (norm > CONVERGED) & (norm < allowed)
    found = norm < 10 * CONVERGED
    return torch.where(found[:, None, None], x, 0), found


def _dot(a: Float[Tensor, "batch p q"], b: Float[Tensor, "batch p q"]) -> Float[Tensor, "batch 1 1"]:
    return torch.linalg.vecdot(a.flatten(1), b.flatten(1))[:, None, None]


def _rayleigh_ritz(
    pp: Float[Tensor, "batch p p"],
    pq: Float[Tensor, "batch p q"],
    image: Float[Tensor, "batch p q"],
    x: Float[Tensor, "batch p q"],
) -> tuple[Float[Tensor, "batch p"], Float[Tensor, "batch p n"], Float[Tensor, "batch p n"]]:
    """Energies, orbitals and residuals of the states in the space of [1, X]; ``image`` is X A_qq."""
    image = torch.cat([torch.baddbmm(pp, x, pq.mT), pq + image], dim=2)
    one = torch.eye(pp.shape[1], dtype=pp.dtype, device=pp.device).expand(len(pp), -1, -1)
    y = torch.cat([one, x], dim=2)
    inverse = torch.linalg.solve_triangular(torch.linalg.cholesky(y @ y.mT), one, upper=False)
    values, rotation = torch.linalg.eigh(inverse @ (y @ image.mT) @ inverse.mT)
    rotation = rotation.mT @ inverse
    y = rotation @ y
    return values, y, torch.baddbmm(y * values[:, :, None], rotation, image, beta=-1)


def _alone(
    pp: Float[Tensor, "batch p p"],
    pq: Float[Tensor, "batch p q"],
    qq: Float[Tensor, "batch q q"],
    levels: Float[Tensor, "batch q"],
    x: Float[Tensor, "batch p q"],
    bound: Float[Tensor, " batch"],
) -> Bool[Tensor, " batch"]:
    """Whether A - bound is positive definite in the complement of the space of [1, X]; A_qq is ``qq`` + ``levels``.

    It is there A_qq - bound - X^T B - B^T X with B = A_pq - (A_pp - bound) X / 2. If the off-diagonal part is smaller
    than the diagonal (Frobenius norms, the diagonal scaled to 1), no factor is needed.
    """
    norm = torch.linalg.matrix_norm
    distance = levels + qq.diagonal(dim1=1, dim2=2) - bound[:, None]
    root = distance.clamp(min=1e-30).rsqrt()[:, None]
    b = torch.baddbmm(torch.addcmul(pq, x, bound[:, None, None], value=0.5), pp, x, alpha=-0.5)
    scaled = qq * (root * root.mT)
    scaled.diagonal(dim1=1, dim2=2).zero_()
    apart = norm(scaled) + 2 * norm(root * x) * norm(root * b)
    sure = (distance > 0).all(1) & (apart < 0.9)
    if not sure.all():
        others = (~sure).nonzero().flatten()
        coupling = x[others].mT @ b[others]
        rest = qq[others] - coupling - coupling.mT
        rest.diagonal(dim1=1, dim2=2).add_(levels[others] - bound[others, None])
        sure[others] = torch.linalg.cholesky_ex(rest).info == 0
    return sure
