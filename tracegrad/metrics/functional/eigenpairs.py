"""The lowest eigenpairs of symmetric matrices that are nearly diagonal.

In the basis of the reference orbitals a good prediction is the diagonal of the reference energies and a small error E.
The space of its lowest states is then spanned by the rows of [1, X] with a small X, which solves
E_pq + X (e_q + E_qq) - (e_p + E_pp + X E_qp) X = 0 (p: the wanted diagonal elements, q: the others) and is found with
a few products of narrow matrices in place of a diagonalisation. As E and X are small, single precision does for them:
the Rayleigh-Ritz step after them is in double.

Nothing is taken on trust: the distance to the next X is computed in double, and as the eigenvalues of e_q + E_qq are
bounds of the states beyond the wanted ones (Cauchy), it is enough that E_qq is too small to bring one down to them.
Matrices that fail go to `torch.linalg.eigh`.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# Norm of the change of X by one more step. Errors of energies are of the size of its square times their distance to
# the next state.
CHANGE = 1e-7
ROUGH = 3e-8  # the same in single precision
MARGIN = 1e-5  # the state after the wanted ones lies higher than them by more (hartree)
STEPS = 24
PROGRESS = 0.6  # change of a step over that of the step before it, at most
SMALLEST = 64  # smaller matrices are diagonalised as fast
SPARE = 8  # more states at most that are found for the sake of a larger distance to the next one

Image = Callable[
    [Float[Tensor, "batch p q"]], tuple[Float[Tensor, "batch p n"], Float[Tensor, "batch p n"]]
]


def lowest_eigenpairs(
    a: Float[Tensor, "batch n n"], count: int
) -> tuple[Float[Tensor, "batch count"], Float[Tensor, "batch n count"]]:
    """The ``count`` lowest eigenvalues, ascending, and their orthonormal eigenvectors (columns); float64."""
    if a.shape[1] < SMALLEST or 2 * (count + SPARE) > a.shape[1]:
        values, vectors = torch.linalg.eigh(a)
        return values[:, :count], vectors[:, :, :count]
    values, vectors, sure = _decoupled(a, _with_spare(a.diagonal(dim1=1, dim2=2), count))
    values, vectors = values[:, :count], vectors[:, :, :count]
    others = (~sure).nonzero().flatten()
    if len(others):
        all_values, all_vectors = torch.linalg.eigh(a[others])
        values[others], vectors[others] = all_values[:, :count], all_vectors[:, :, :count]
    return values, vectors


def lowest_orbitals(
    h: Float[Tensor, "batch n n"],
    difference: Float[Tensor, "batch n n"],
    energies: Float[Tensor, "batch n"],
    orbitals: Float[Tensor, "batch n n"],
    count: int,
) -> tuple[Float[Tensor, "batch count"], Float[Tensor, "batch count n"], Float[Tensor, "batch count count"]]:
    """The lowest solutions of H' C' = S C' eps' near those of a reference H C = S C eps; float64.

    Args:
        h: H', symmetric.
        difference: H' - H, symmetric; it steers the search, the solutions are those of ``h``.
        energies, orbitals: of the reference, ascending; columns with C^T S C = 1.
        count: wanted.

    Returns:
        Energies, ascending; orbitals (rows); their overlaps C'^T S C with the ``count`` lowest of the reference.
    """
    n = h.shape[1]
    if n < SMALLEST or 2 * (count + SPARE) > n:
        return _diagonalised(h, orbitals, count)
    m = _with_spare(energies, count)

    def image(x: Float[Tensor, "batch p q"]) -> tuple[Float[Tensor, "batch p n"], Float[Tensor, "batch p n"]]:
        states = torch.baddbmm(orbitals[:, :, :m].mT, x, orbitals[:, :, m:].mT)
        return states, (states @ h) @ orbitals

    rough = orbitals.to(_rough(h))
    error = rough.mT @ (difference.to(rough.dtype) @ rough)
    values, vectors, overlaps, sure = _lowest(energies, error, m, image)
    values, vectors, overlaps = values[:, :count], vectors[:, :count], overlaps[:, :count, :count]
    others = (~sure).nonzero().flatten()
    if len(others):
        values[others], vectors[others], overlaps[others] = _diagonalised(h[others], orbitals[others], count)
    return values, vectors, overlaps


def _diagonalised(
    h: Float[Tensor, "batch n n"], orbitals: Float[Tensor, "batch n n"], count: int
) -> tuple[Float[Tensor, "batch count"], Float[Tensor, "batch count n"], Float[Tensor, "batch count count"]]:
    values, y = torch.linalg.eigh(orbitals.mT @ (h @ orbitals))
    y = y[:, :, :count].mT
    return values[:, :count], y @ orbitals.mT, y[:, :, :count]


def _decoupled(
    a: Float[Tensor, "batch n n"], m: int
) -> tuple[Float[Tensor, "batch m"], Float[Tensor, "batch n m"], Bool[Tensor, " batch"]]:
    """Eigenpairs of matrices, and for which of them they are the wanted ones."""
    one = torch.eye(m, dtype=a.dtype, device=a.device)

    def image(x: Float[Tensor, "batch p q"]) -> tuple[Float[Tensor, "batch p n"], Float[Tensor, "batch p n"]]:
        states = torch.cat([one.expand(len(x), m, m), x], dim=2)
        return states, states @ a

    diagonal = a.diagonal(dim1=1, dim2=2)
    error = a.to(_rough(a))
    error.diagonal(dim1=1, dim2=2).zero_()
    values, vectors, _, sure = _lowest(diagonal, error, m, image)
    return values, vectors.mT, sure


def _lowest(
    energies: Float[Tensor, "batch n"], error: Float[Tensor, "batch n n"], m: int, image: Image
) -> tuple[
    Float[Tensor, "batch m"],
    Float[Tensor, "batch m n"],
    Float[Tensor, "batch m m"],
    Bool[Tensor, " batch"],
]:
    """The m lowest states of diag(energies) + error.

    Args:
        energies: float64.
        error: symmetric, rough.
        m: wanted.
        image: gives [1, X] and its product with the matrix itself, rows, in float64; the former in any basis.

    Returns:
        Eigenvalues, ascending; eigenvectors (rows) in the basis of ``image``; their first m components; which matrices
        have these as their lowest ones.
    """
    low, high = energies[:, :m], energies[:, m:]
    squares = error[:, m:, m:].square()
    hopeful = _stays_above(high, squares, low.amax(1))
    x = error.new_zeros(len(error), m, high.shape[1])
    step = 1 / (low[:, :, None] - high[:, None])
    if hopeful.any():
        x = _solved(error, m, (step * hopeful[:, None, None]).to(error.dtype))
    x = x.to(energies.dtype)

    states, product = image(x)
    top = product[:, :, :m]
    change = torch.linalg.matrix_norm(torch.baddbmm(product[:, :, m:], top, x, alpha=-1).mul_(step))
    factor = torch.linalg.cholesky_ex(_plus_one(x @ x.mT)).L
    half = torch.linalg.solve_triangular(factor, torch.baddbmm(top, product[:, :, m:], x.mT), upper=False)
    values, rotation = torch.linalg.eigh(
        torch.linalg.solve_triangular(factor.mT, half, upper=True, left=False)
    )
    overlaps = torch.linalg.solve_triangular(factor, rotation.mT, upper=False, left=False)
    sure = hopeful & (change < CHANGE) & _stays_above(high, squares, values[:, -1])
    return values, overlaps @ states, overlaps, sure


def _solved(
    error: Float[Tensor, "batch n n"], m: int, step: Float[Tensor, "batch m q"]
) -> Float[Tensor, "batch m q"]:
    """X after as many steps as help."""
    upper, lower = error[:, :m], error[:, m:]
    x = upper[:, :, m:] * step
    change = torch.linalg.matrix_norm(x)
    running = torch.ones_like(change, dtype=torch.bool)
    for _ in range(STEPS):
        product = torch.baddbmm(upper, x, lower)
        following = torch.baddbmm(product[:, :, m:], product[:, :, :m], x, alpha=-1).mul_(step)
        before, change = change, torch.linalg.matrix_norm(following - x)
        # What has left the reach of the method must not overflow.
        running = running & (change < PROGRESS * before)
        x = torch.where(running[:, None, None], following, x)
        running = running & (change > ROUGH)
        if not running.any():
            break
    return x


def _stays_above(
    high: Float[Tensor, "batch q"], squares: Float[Tensor, "batch q q"], bound: Float[Tensor, " batch"]
) -> Bool[Tensor, " batch"]:
    """Whether all eigenvalues of diag(high) + E_qq are above the bound.

    They are if the norm of E_qq between two factors (high - bound)^-1/2 is below 1.
    """
    distance = high - (bound + MARGIN)[:, None]
    inverse = (1 / distance).to(squares.dtype)
    square = (inverse[:, None] @ squares @ inverse[:, :, None]).flatten()
    return (distance > 0).all(1) & (square < 0.98)


def _with_spare(energies: Float[Tensor, "batch n"], count: int) -> int:
    """So many states, at least ``count``, that the next one is far in all matrices."""
    distances = energies[:, count - 1 : count + SPARE + 1].diff(dim=1)
    return count + int(distances.amin(0).argmax())


def _plus_one(a: Float[Tensor, "batch m m"]) -> Float[Tensor, "batch m m"]:
    a.diagonal(dim1=1, dim2=2).add_(1)
    return a


def _rough(a: Tensor) -> torch.dtype:
    """A GPU may have been told to multiply single-precision matrices with fewer digits yet."""
    return torch.float32 if a.device.type == "cpu" else torch.float64
