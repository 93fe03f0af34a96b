"""How far a network is from being equivariant under rotations."""

import math

import numpy as np
import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.reduction import Masks
from tracegrad.metrics.functional import hamiltonian_errors
from tracegrad.model.network import HamiltonianModel, HamiltonianPrediction
from tracegrad.nn.interface import Blocks
from tracegrad.nn.item_first.wigner import WignerMatrices
from tracegrad.numerics.rotations import of_quaternions


def random_quaternions(
    count: int, largest: float | int, random: np.random.Generator
) -> Float[np.ndarray, "count 4"]:
    """Unit quaternions (w, x, y, z), uniform over all rotations by at most ``largest`` degrees about any axis."""
    angles = np.linspace(0, math.radians(largest), 10_001)
    share = angles - np.sin(angles)  # of all rotations by at most this angle, up to a factor
    half = np.interp(random.uniform(0, share[-1], count), share, angles)[:, None] / 2
    axes = random.normal(size=(count, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    return np.concatenate([np.cos(half), np.sin(half) * axes], axis=1)


def orbital_rotations(basis: OrbitalBasis, quaternions: Float[Tensor, "n 4"]) -> Inexact[Tensor, "n dim dim"]:
    """Matrices U of the union slots, with which a rotation makes U H U^dagger of H.

    With spin they are exp(-i angle n . sigma / 2) on spin, times those of the orbitals.
    """
    spatial = basis.union[: len(basis.union) // basis.spins]
    by_degree = WignerMatrices(max(spatial))(of_quaternions(quaternions))
    matrices = torch.stack(
        [torch.block_diag(*[by_degree[degree][i] for degree in spatial]) for i in range(len(quaternions))]
    )
    if not basis.spinful:
        return matrices
    w, x, y, z = (quaternions / quaternions.norm(dim=1, keepdim=True)).unbind(1)
    rows = [
        torch.stack([torch.complex(w, -z), torch.complex(-y, -x)], dim=1),
        torch.stack([torch.complex(y, -x), torch.complex(w, z)], dim=1),
    ]
    return torch.stack(
        [torch.kron(s, m) for s, m in zip(torch.stack(rows, dim=1), matrices + 0j, strict=True)]
    )


def rotated(graph, rotation: Float[Tensor, "3 3"]):
    """The graph with turned positions, without labels."""
    turned = graph.clone()
    for name in ("positions", "vectors"):
        if name in turned:
            turned[name] = turned[name] @ rotation.mT
    return turned


@torch.no_grad()
def equivariance_errors(
    model: HamiltonianModel, graph, quaternions: Float[Tensor, "n 4"]
) -> Float[Tensor, "stages n"]:
    """Mean of |U H(x) U^dagger - H(R x)| over all matrix elements, for each rotation and each stage of the network.

    Args:
        model: the network, in evaluation mode and in the dtype of the graph.
        graph: a batch of one molecule or crystal.
        quaternions: rotations R, (w, x, y, z).

    Returns:
        Errors in the unit of H; the last stage is that of the predicted H.
    """
    basis, masks = model.basis, Masks(model.basis)
    expected = _stages(model(graph, traces=False))
    errors = []
    for u, rotation in zip(orbital_rotations(basis, quaternions), of_quaternions(quaternions), strict=True):
        turned = rotated(graph, rotation)
        found = _stages(model(turned, traces=False))
        for blocks, before in zip(found, expected, strict=True):
            for site, h in before.items():
                turned[f"h_{site}"] = u @ h @ u.mH
            errors.append(hamiltonian_errors(blocks, turned, masks, basis).all.mean())
    return torch.stack(errors).view(len(quaternions), len(expected)).T


def _stages(prediction: HamiltonianPrediction) -> list[Blocks]:
    return [*prediction.earlier, prediction.blocks]
