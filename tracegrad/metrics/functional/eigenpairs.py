"""The lowest states of predicted Hamiltonians that are close to solved references.

In the basis of the reference orbitals C a prediction H' = H + E is nearly diagonal: A = C^T H' C = eps + C^T E C. The
space of its lowest states is spanned by the rows of [1, X] with a small X, which solves
A_pq + X A_qq - (A_pp + X A_qp) X = 0 (p: the wanted states, q: the others). Conjugate gradients find it with thin
products in single precision, whose absolute error is small because E is. The energies are those of H' in this space,
in double precision, and one step of Newton's method with the diagonal of A_qq improves the orbitals. States stand in
rows: few columns make slow products.

Nothing is taken on trust: the residuals are those of H' in double precision, and A is shown to have no other state
below. Matrices that fail go to `torch.linalg.eigh`.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

CONVERGED = 3e-7  # hartree, norm of A_pq + X A_qq - (A_pp + X A_qp) X: about what single precision reaches
# Norm of A y - theta y over all wanted states, before the last step. Errors of energies are of the size of its square
# over the distance to the next state. A label in single precision alone brings 1e-5.
RESIDUAL = 2e-5
MARGIN = 1e-4  # all other states are shown to lie higher than the wanted ones by so much, in single precision
STEPS = 20
PROGRESS = 0.5  # residual of a step over that of the step before it, on average at most
GUARDS = 12  # the next states, from which the highest wanted one would be decoupled slowly: they are turned with it
SMALLEST = 64  # smaller matrices are diagonalised as fast


def lowest_states(
    h: Float[Tensor, "batch n n"],
    difference: Float[Tensor, "batch n n"],
    energies: Float[Tensor, "batch n"],
    orbitals: Float[Tensor, "batch n n"],
    count: int,
) -> tuple[Float[Tensor, "batch count"], Float[Tensor, "batch count n"]]:
    """Energies and orbitals (rows, in terms of the reference orbitals) of the ``count`` lowest states; float64.

    Args:
        h: H', symmetric, float64.
        difference: E; a guess of it changes the time, not the result.
        energies: of H, ascending, float64.
        orbitals: of H in columns, C^T S C = 1, float64.
        count: of the wanted states.
    """
    n = h.shape[1]
    if n < SMALLEST or 2 * count > n:
        return _diagonalised(h, orbitals, count)
    values, vectors, sure = _decoupled(h, difference, energies, orbitals, count)
    if not sure.all():
        others = (~sure).nonzero().flatten()
        values[others], vectors[others] = _diagonalised(h[others], orbitals[others], count)
    return values, vectors


def _diagonalised(
    h: Float[Tensor, "batch n n"], orbitals: Float[Tensor, "batch n n"], count: int
) -> tuple[Float[Tensor, "batch count"], Float[Tensor, "batch count n"]]:
    values, vectors = torch.linalg.eigh(orbitals.mT @ (h @ orbitals))
    return values[:, :count], vectors[:, :, :count].mT


def _decoupled(
    h: Float[Tensor, "batch n n"],
    difference: Float[Tensor, "batch n n"],
    energies: Float[Tensor, "batch n"],
    orbitals: Float[Tensor, "batch n n"],
    p: int,
) -> tuple[Float[Tensor, "batch p"], Float[Tensor, "batch p n"], Bool[Tensor, " batch"]]:
    """Energies and orbitals, and for which matrices they are the wanted ones."""
    w = min(p + GUARDS, h.shape[1])
    right = orbitals.float()
    left = right.mT @ difference.float()
    window = (left[:, :w] @ right[:, :, :w]).double()
    window.diagonal(dim1=1, dim2=2).add_(energies[:, :w])
    levels, turn = torch.linalg.eigh(window)
    single = turn.float()
    left[:, :w] = single.mT @ left[:, :w]
    right[:, :, :w] = right[:, :, :w] @ single
    pq, qq = left[:, :p] @ right[:, :, p:], left[:, p:] @ right[:, :, p:]
    pq[:, :, : w - p], qq[:, : w - p, : w - p] = 0, torch.diag_embed(levels[:, p:])
    qq.diagonal(dim1=1, dim2=2)[:, w - p :].add_(energies[:, w:])
    low = levels[:, :p].float()
    x = _conjugate_gradients(low, pq, qq)

    y = torch.cat([torch.eye(p, device=x.device).expand(len(x), -1, -1), x], dim=2).double()
    y[:, :, :w] = y[:, :, :w] @ turn.mT
    values, y, residual = _rayleigh_ritz(h, orbitals, y)
    sure = (torch.linalg.matrix_norm(residual) < RESIDUAL) & _alone(
        low, pq, qq, x, values[:, -1].float() + MARGIN
    )
    residual[:, :, :w] = residual[:, :, :w] @ turn
    step = residual[:, :, p:] / (qq.diagonal(dim1=1, dim2=2)[:, None] - values[:, :, None])
    y[:, :, :w] -= step[:, :, : w - p] @ turn[:, :, p:].mT
    y[:, :, w:] -= step[:, :, w - p :]
    return values, y, sure


def _conjugate_gradients(
    levels: Float[Tensor, "batch p"], pq: Float[Tensor, "batch p q"], qq: Float[Tensor, "batch q q"]
) -> Float[Tensor, "batch p q"]:
    """X where it is found, else 0; each row has its own steps. ``levels`` are the diagonal of a diagonal A_pp."""
    pp, qp = torch.diag_embed(levels), pq.mT
    weight = 1 / (qq.diagonal(dim1=1, dim2=2)[:, None] - levels[:, :, None])
    x, image, inner, residual = torch.zeros_like(pq), torch.zeros_like(pq), pp, pq
    scaled = residual * weight
    slope, direction = torch.linalg.vecdot(residual, scaled)[:, :, None], -scaled
    norm = torch.linalg.matrix_norm(residual)
    running, allowed = norm > CONVERGED, 2 * norm
    for _ in range(STEPS):
        if not running.any():
            break
        turned = direction @ qq
        bend = torch.linalg.vecdot(direction, torch.baddbmm(turned, inner, direction, alpha=-1))[:, :, None]
        step = torch.where(running[:, None, None], slope / bend, 0)
        x, image = torch.addcmul(x, direction, step), torch.addcmul(image, turned, step)  # image: X A_qq
        inner = torch.baddbmm(pp, x, qp)
        residual = torch.baddbmm(pq + image, inner, x, alpha=-1)
        scaled = residual * weight
        before, slope = slope, torch.linalg.vecdot(residual, scaled)[:, :, None]
        direction = torch.addcmul(-scaled, direction, slope / before)
        norm, allowed = torch.linalg.matrix_norm(residual), PROGRESS * allowed
        running = running & (norm > CONVERGED) & (norm < allowed)
    return torch.where((norm < 10 * CONVERGED)[:, None, None], x, 0)


def _rayleigh_ritz(
    h: Float[Tensor, "batch n n"], orbitals: Float[Tensor, "batch n n"], y: Float[Tensor, "batch p n"]
) -> tuple[Float[Tensor, "batch p"], Float[Tensor, "batch p n"], Float[Tensor, "batch p n"]]:
    """Energies, orbitals and residuals of the states in the space of the rows of y."""
    image = ((y @ orbitals.mT) @ h) @ orbitals
    one = torch.eye(y.shape[1], dtype=y.dtype, device=y.device)
    inverse = torch.linalg.solve_triangular(
        torch.linalg.cholesky(y @ y.mT), one.expand(len(y), -1, -1), upper=False
    )
    values, rotation = torch.linalg.eigh(inverse @ (y @ image.mT) @ inverse.mT)
    rotation = rotation.mT @ inverse
    y = rotation @ y
    return values, y, torch.baddbmm(y * values[:, :, None], rotation, image, beta=-1)


def _alone(
    levels: Float[Tensor, "batch p"],
    pq: Float[Tensor, "batch p q"],
    qq: Float[Tensor, "batch q q"],
    x: Float[Tensor, "batch p q"],
    bound: Float[Tensor, " batch"],
) -> Bool[Tensor, " batch"]:
    """Whether A - bound is positive definite in the complement of the space of [1, X].

    It is there A_qq - bound - X^T B - B^T X with B = A_pq - (A_pp - bound) X / 2. If the off-diagonal part is smaller
    than the diagonal (Frobenius norms, the diagonal scaled to 1), no factor is needed.
    """
    norm = torch.linalg.matrix_norm
    distance = qq.diagonal(dim1=1, dim2=2) - bound[:, None]
    root = distance.clamp(min=1e-30).rsqrt()[:, None]
    b = torch.addcmul(pq, x, (levels - bound[:, None])[:, :, None], value=-0.5)
    scaled = qq * (root * root.mT)
    scaled.diagonal(dim1=1, dim2=2).zero_()
    apart = norm(scaled) + 2 * norm(root * x) * norm(root * b)
    sure = (distance > 0).all(1) & (apart < 0.9)
    if not sure.all():
        others = (~sure).nonzero().flatten()
        coupling = x[others].mT @ b[others]
        rest = qq[others] - coupling - coupling.mT
        rest.diagonal(dim1=1, dim2=2).sub_(bound[others, None])
        sure[others] = torch.linalg.cholesky_ex(rest).info == 0
    return sure
