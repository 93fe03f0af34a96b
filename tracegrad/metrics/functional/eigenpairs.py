"""The lowest states of predicted Hamiltonians that are close to solved references.

In the basis of the reference orbitals C a prediction H' = H + E is nearly diagonal: A = C^T H' C = eps + C^T E C.
Let p be the lowest states that are computed and q all others. The space of the lowest states is spanned by the rows
of [1, X] with a small matrix X that solves the Riccati equation A_pq + X A_qq - (A_pp + X A_qp) X = 0. Conjugate
gradients solve it in single precision. The energies are the eigenvalues of A in this space (Rayleigh-Ritz, double
precision), and one Newton step with the diagonal of A_qq improves the orbitals. States are rows, because matrix
products with few columns are slow.

The result is verified: residuals are computed in double precision, and a test of positive definiteness shows that A
has no other state below. Matrices that fail are diagonalised by `torch.linalg.eigh`.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

CONVERGED = 1e-7  # hartree, norm of A_pq + X A_qq - (A_pp + X A_qp) X: about what single precision reaches
# Hartree, norm of A y - theta y over the lowest states before the Newton step. The error of an energy is about its
# square over the distance to the next state.
RESIDUAL = 2e-6
MARGIN = 1e-4  # hartree; all other states are shown to lie at least this much higher, for single precision
STEPS = 20  # largest number of steps of the conjugate gradients
PROGRESS = 0.5  # largest mean ratio of the residuals of successive steps
# Conjugate gradients converge slowly for small energy differences. Therefore a window is diagonalised first: the
# highest BELOW of the lowest states and the next ABOVE states.
BELOW, ABOVE = 2, 10
SMALLEST = 64  # number of orbitals below which a full diagonalisation is as fast


def lowest_states(
    error: Float[Tensor, "batch n n"],
    energies: Float[Tensor, "batch n"],
    orbitals: Float[Tensor, "batch n n"],
    count: int,
) -> tuple[Float[Tensor, "batch count"], Float[Tensor, "batch count n"]]:
    """Energies and orbitals of the ``count`` lowest states of H + E, float64.

    Args:
        error: E, float64; only its symmetric part is used.
        energies: orbital energies of H, ascending, float64.
        orbitals: orbitals C of H in columns, C^T S C = 1, float64.
        count: number of states.

    Returns:
        Energies, and orbitals as rows of coefficients of the reference orbitals.
    """
    n = error.shape[1]
    if n < SMALLEST or 2 * count > n or not count:
        return _diagonalised(error, energies, orbitals, count)
    values, vectors, sure = _decoupled(error, energies, orbitals, count)
    if not sure.all():
        others = (~sure).nonzero().flatten()
        values[others], vectors[others] = _diagonalised(
            error[others], energies[others], orbitals[others], count
        )
    return values, vectors


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
) -> tuple[Float[Tensor, "batch p"], Float[Tensor, "batch p n"], Bool[Tensor, " batch"]]:
    """Energies and orbitals, and for which matrices they are verified."""
    error = _symmetric(error)
    start, end = max(p - BELOW, 0), min(p + ABOVE, error.shape[1])
    left = orbitals[:, :, :end].mT @ error
    block = left[:, start:] @ orbitals[:, :, start:end]
    block.diagonal(dim1=1, dim2=2).add_(energies[:, start:end])
    levels, rotation = torch.linalg.eigh(block)
    levels = torch.cat([energies[:, :start], levels, energies[:, end:]], dim=1)
    frontier = orbitals[:, :, start:end] @ rotation

    of_p = torch.cat([left[:, :start], rotation.mT[:, : p - start] @ left[:, start:]], dim=1) @ orbitals
    of_p[:, :, start:end] = of_p[:, :, start:end] @ rotation
    of_p[:, start:, start:end] = 0
    of_p.diagonal(dim1=1, dim2=2).add_(levels[:, :p])
    pp, pq = of_p[:, :, :p], of_p[:, :, p:]
    of_q = torch.cat([frontier[:, :, p - start :], orbitals[:, :, end:]], dim=2)
    single = of_q.float()
    qq = single.mT @ error.float() @ single  # without the levels
    qq[:, : end - p, : end - p] = 0
    rounded = (pp.float(), pq.float(), qq, levels[:, p:].float())
    x, sure = _conjugate_gradients(*rounded)

    double, window_orbitals = x.double(), of_q[:, :, : end - p]
    coupled = double @ of_q.mT @ error @ of_q  # X A_qq without the levels
    coupled[:, :, : end - p] -= double[:, :, : end - p] @ (window_orbitals.mT @ error @ window_orbitals)
    values, y, residual = _rayleigh_ritz(pp, pq, coupled + double * levels[:, None, p:], double)
    sure &= torch.linalg.matrix_norm(residual) < RESIDUAL
    sure &= _others_lie_above(*rounded, x, values[:, -1].float() + MARGIN)
    high = levels[:, p:] + qq.diagonal(dim1=1, dim2=2)
    y[:, :, p:] -= residual[:, :, p:] / (high[:, None] - values[:, :, None])
    y[:, :, start:end] = y[:, :, start:end] @ rotation.mT
    return values, y, sure


def _conjugate_gradients(
    pp: Float[Tensor, "batch p p"],
    pq: Float[Tensor, "batch p q"],
    qq: Float[Tensor, "batch q q"],
    levels: Float[Tensor, "batch q"],
) -> tuple[Float[Tensor, "batch p q"], Bool[Tensor, " batch"]]:
    """X (0 without convergence), and whether it has converged, for each matrix; A_qq is ``qq`` + diag(``levels``)."""
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
        moved = torch.baddbmm(direction * levels, direction, qq)
        bend = _dot(direction, torch.baddbmm(moved, inner, direction, alpha=-1))
        step = torch.where(running[:, None, None], slope / bend, 0)
        x, image = torch.addcmul(x, direction, step), torch.addcmul(image, moved, step)  # image: X A_qq
        inner = torch.baddbmm(pp, x, qp)
        residual = torch.baddbmm(pq + image, inner, x, alpha=-1)
        scaled = residual * weight
        before, slope = slope, _dot(residual, scaled)
        direction = torch.addcmul(-scaled, direction, slope / before)
        norm, allowed = torch.linalg.matrix_norm(residual), PROGRESS * allowed
        running = running & (norm > CONVERGED) & (norm < allowed)
    converged = norm < 10 * CONVERGED
    return torch.where(converged[:, None, None], x, 0), converged


def _dot(a: Float[Tensor, "batch p q"], b: Float[Tensor, "batch p q"]) -> Float[Tensor, "batch 1 1"]:
    return torch.linalg.vecdot(a.flatten(1), b.flatten(1))[:, None, None]


def _rayleigh_ritz(
    pp: Float[Tensor, "batch p p"],
    pq: Float[Tensor, "batch p q"],
    image: Float[Tensor, "batch p q"],
    x: Float[Tensor, "batch p q"],
) -> tuple[Float[Tensor, "batch p"], Float[Tensor, "batch p n"], Float[Tensor, "batch p n"]]:
    """Energies, orbitals and residuals of A in the space spanned by [1, X]; ``image`` is X A_qq."""
    image = torch.cat([torch.baddbmm(pp, x, pq.mT), pq + image], dim=2)
    one = torch.eye(pp.shape[1], dtype=pp.dtype, device=pp.device).expand(len(pp), -1, -1)
    y = torch.cat([one, x], dim=2)
    inverse = torch.linalg.solve_triangular(torch.linalg.cholesky(y @ y.mT), one, upper=False)
    values, rotation = torch.linalg.eigh(inverse @ (y @ image.mT) @ inverse.mT)
    rotation = rotation.mT @ inverse
    y = rotation @ y
    return values, y, torch.baddbmm(y * values[:, :, None], rotation, image, beta=-1)


def _others_lie_above(
    pp: Float[Tensor, "batch p p"],
    pq: Float[Tensor, "batch p q"],
    qq: Float[Tensor, "batch q q"],
    levels: Float[Tensor, "batch q"],
    x: Float[Tensor, "batch p q"],
    bound: Float[Tensor, " batch"],
) -> Bool[Tensor, " batch"]:
    """Whether A has no state below ``bound`` outside the space of [1, X]; A_qq is ``qq`` + diag(``levels``).

    On the complement of this space A - bound is A_qq - bound - X^T B - B^T X with B = A_pq - (A_pp - bound) X / 2; it
    must be positive definite. After scaling the diagonal to 1 it is, if the Frobenius norm of the rest is below 1;
    otherwise a Cholesky factorisation decides.
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
