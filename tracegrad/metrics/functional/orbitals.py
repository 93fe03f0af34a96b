"""Errors of the orbital energies and wavefunctions of a predicted Hamiltonian.

Prediction and reference are solved as H C = S C eps with the overlap matrix S of the basis functions. Orbital k has
the k-th lowest energy; the n_occ lowest orbitals are occupied. In the basis of the reference orbitals C, for which
C^T S C = 1, the prediction H' is the ordinary symmetric problem (eps + C^T (H' - H) C) Y = Y eps'. Its orbitals are
C' = C Y, and their overlaps with the reference orbitals are C^T S C' = Y. Once the reference is solved, S is needed
only for the shift of H.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tracegrad.errors import DataError
from tracegrad.metrics.functional.eigenpairs import lowest_states
from tracegrad.metrics.functional.shift import least_absolute_shift, shifted_mae

# Neighbouring levels of the reference that are closer (hartree) are one degenerate level: the labels of symmetric
# molecules split such levels by up to 4e-5 hartree.
DEGENERATE = 1e-4

# Names of the metrics in the order of their values; `tracegrad.metrics.columns` has their units.
NAMES = (
    "eps_mae",
    "eps_mae_shifted",
    "h_mae_shifted",
    "homo_error",
    "lumo_error",
    "gap_error",
    "psi_cosine",
    "psi_overlap",
    "psi_overlap_levels",
)


@dataclass(frozen=True)
class ReferenceOrbitals:
    """Solved references of molecules with the same number of orbitals; float64."""

    energies: Float[Tensor, "batch n"]  # hartree, ascending
    orbitals: Float[Tensor, "batch n n"]  # columns, C^T S C = 1
    overlap: Float[Tensor, "batch packed"]  # lower triangle of S, row after row


@dataclass(frozen=True)
class OrbitalComparison:
    """Metrics of each molecule, and its predicted energies up to the lowest empty orbital; hartree."""

    metrics: dict[str, Float[Tensor, " batch"]]
    energies: Float[Tensor, "batch levels"]


def orbital_metrics(
    h_pred: Float[Tensor, "*batch n n"],
    h_ref: Float[Tensor, "*batch n n"],
    overlap: Float[Tensor, "*batch n n"],
    n_occ: int | Int[Tensor, "*batch"],
) -> dict[str, Float[Tensor, "*batch"]]:
    """Errors of the orbital energies and wavefunctions of each molecule, for one matrix or a batch.

    | key                  | meaning                                                                             |
    |----------------------|-------------------------------------------------------------------------------------|
    | `eps_mae`            | mean over occupied k of abs(eps'_k - eps_k)                                         |
    | `psi_cosine`         | mean over occupied k of abs(c_k . c'_k) / (norm(c_k) norm(c'_k)): the released      |
    |                      | definition, without S; in a degenerate level it depends on the eigensolver          |
    | `h_mae_shifted`      | min over mu of the mean over all elements of abs(H' - H + mu S)                     |
    | `eps_mae_shifted`    | min over mu of the mean over occupied k of abs(eps'_k - eps_k + mu)                 |
    | `psi_overlap`        | sum over occupied j, k of (c_j . S c'_k)^2, over n_occ: 1 where both occupied       |
    |                      | spaces are the same, 0 where they are orthogonal                                    |
    | `psi_overlap_levels` | the same sum only over j, k of the same level; neighbouring levels of the reference |
    |                      | within 1e-4 hartree are one degenerate level, so that a rotation of its orbitals    |
    |                      | does not count                                                                      |
    | `homo_error`         | abs(eps'_k - eps_k) of the highest occupied orbital                                 |
    | `lumo_error`         | the same for the lowest empty orbital                                               |
    | `gap_error`          | the same for the difference of both energies                                        |

    The zero of energy is arbitrary: a shift mu of all levels changes H by mu S. Each shifted metric is computed with
    the mu that minimises it exactly.

    Args:
        h_pred: predicted Hamiltonian, hartree; its symmetric part is solved.
        h_ref: reference Hamiltonian, hartree, symmetric.
        overlap: S, symmetric and positive definite.
        n_occ: number of occupied orbitals, from 1 to n - 1.

    Returns:
        Tensors of the shape of the batch, without gradients; energies in hartree; NaN where h_pred is not finite.

    Raises:
        DataError: a dtype other than float64, shapes that do not agree, a reference or overlap that is not finite, an
            overlap that is not positive definite, or n_occ out of range.
    """
    occupied = _checked(h_pred, h_ref, overlap, n_occ)
    n = h_pred.shape[-1]
    h_pred, h_ref, overlap = (matrix.reshape(-1, n, n) for matrix in (h_pred, h_ref, overlap))
    comparison = compare(h_pred - h_ref, solve_reference(h_ref, overlap), occupied.reshape(-1))
    return {name: value.reshape(occupied.shape) for name, value in comparison.metrics.items()}


def solve_reference(h: Float[Tensor, "batch n n"], overlap: Float[Tensor, "batch n n"]) -> ReferenceOrbitals:
    """Solve H C = S C eps by the Cholesky factor of S.

    Raises:
        DataError: S is not positive definite.
    """
    factor, info = torch.linalg.cholesky_ex(overlap)
    bad = info.nonzero().flatten().tolist()
    if bad:
        raise DataError(
            f"orbital metrics: the overlap of matrix {bad[0]} is not positive definite; are the atoms of this "
            "molecule on top of each other, or is it the overlap of another one?"
        )
    half = torch.linalg.solve_triangular(factor, _symmetric(h), upper=False)
    energies, y = torch.linalg.eigh(torch.linalg.solve_triangular(factor, half.mT, upper=False))
    row, column = torch.tril_indices(*overlap.shape[1:], device=h.device)
    orbitals = torch.linalg.solve_triangular(factor.mT, y, upper=True)
    return ReferenceOrbitals(energies, orbitals, overlap[:, row, column])


@torch.no_grad()
def compare(
    difference: Float[Tensor, "batch n n"],
    reference: ReferenceOrbitals,
    n_occ: Int[Tensor, " batch"],
) -> OrbitalComparison:
    """Metrics of predictions for solved references.

    Args:
        difference: prediction minus reference, hartree, float64; its symmetric part is solved.
        reference: solved references of the molecules.
        n_occ: number of occupied orbitals; fastest if it is the same for all.
    """
    count = int(n_occ.max()) + 1
    finite = difference.sum((1, 2)).isfinite()  # the sum is finite only if all entries are
    if not finite.all():
        difference = torch.where(finite[:, None, None], difference, 0)
    predicted, y = lowest_states(difference, reference.energies, reference.orbitals, count)
    errors = predicted - reference.energies[:, :count]

    index = torch.arange(count, device=n_occ.device)
    is_occupied = index < n_occ[:, None]

    def mean(values: Float[Tensor, "batch levels"]) -> Float[Tensor, " batch"]:
        return torch.where(is_occupied, values, 0.0).sum(1) / n_occ

    homo = errors.gather(1, n_occ[:, None] - 1).squeeze(1)
    lumo = errors.gather(1, n_occ[:, None]).squeeze(1)
    weights = is_occupied.to(errors.dtype)
    shift = least_absolute_shift(errors * weights, weights)
    square = torch.where(is_occupied[:, :, None] & is_occupied[:, None], y[:, :, :count].square(), 0.0)
    same = _same_level(reference.energies[:, :count])
    metrics = {
        "eps_mae": mean(errors.abs()),
        "eps_mae_shifted": mean((errors + shift[:, None]).abs()),
        "h_mae_shifted": shifted_mae(difference, reference.overlap),
        "homo_error": homo.abs(),
        "lumo_error": lumo.abs(),
        "gap_error": (lumo - homo).abs(),
        "psi_cosine": mean(_cosines(reference.orbitals[:, :, :count].mT, y @ reference.orbitals.mT)),
        "psi_overlap": square.sum((1, 2)) / n_occ,
        "psi_overlap_levels": (square * same).sum((1, 2)) / n_occ,
    }
    return OrbitalComparison(
        {name: torch.where(finite, value, torch.nan) for name, value in metrics.items()},
        torch.where(finite[:, None], predicted, torch.nan),
    )


def _symmetric(h: Float[Tensor, "batch n n"]) -> Float[Tensor, "batch n n"]:
    return (h + h.mT).mul_(0.5)


def _cosines(
    a: Float[Tensor, "batch levels n"], b: Float[Tensor, "batch levels n"]
) -> Float[Tensor, "batch levels"]:
    return torch.linalg.vecdot(a, b).abs() / (a.norm(dim=2) * b.norm(dim=2))


def _same_level(energies: Float[Tensor, "batch levels"]) -> Bool[Tensor, "batch levels levels"]:
    """Whether orbitals j and k belong to the same degenerate level."""
    level = (energies.diff(dim=1) > DEGENERATE).cumsum(1)
    level = torch.nn.functional.pad(level, (1, 0))
    return level[:, :, None] == level[:, None]


def _checked(h_pred: Tensor, h_ref: Tensor, overlap: Tensor, n_occ: int | Tensor) -> Tensor:
    """``n_occ`` as a tensor of the shape of the batch; raise `DataError` for invalid input, see `orbital_metrics`."""
    matrices = {"h_pred": h_pred, "h_ref": h_ref, "overlap": overlap}
    shape = h_ref.shape
    if len(shape) not in (2, 3) or shape[-1] != shape[-2] or not h_ref.numel():
        raise DataError(f"orbital metrics: h_ref has shape {tuple(shape)}; (n, n) or (batch, n, n) is needed")
    for name, matrix in matrices.items():
        if matrix.shape != shape:
            raise DataError(
                f"orbital metrics: {name} has shape {tuple(matrix.shape)}, but h_ref {tuple(shape)}; give "
                "matrices of the same molecules"
            )
        if matrix.dtype != torch.float64:
            raise DataError(f"orbital metrics: {name} is {matrix.dtype}; float64 is needed, convert it first")
        if name != "h_pred" and not matrix.isfinite().all():
            raise DataError(
                f"orbital metrics: {name} holds NaN or infinite numbers; leave such molecules out"
            )
    occupied = torch.as_tensor(n_occ, device=h_ref.device)
    if occupied.ndim == 0:
        occupied = occupied.expand(shape[:-2])
    if occupied.shape != shape[:-2] or occupied.is_floating_point():
        raise DataError(
            f"orbital metrics: n_occ has shape {tuple(occupied.shape)} and {occupied.dtype}; a whole number or "
            f"integers of shape {tuple(shape[:-2])} are needed"
        )
    outside = occupied[(occupied < 1) | (occupied >= shape[-1])].flatten().tolist()
    if outside:
        raise DataError(
            f"orbital metrics: n_occ is {outside[0]} for {shape[-1]} orbitals; 1 to {shape[-1] - 1} are possible "
            "(half the number of electrons)"
        )
    return occupied
