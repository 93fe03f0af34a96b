"""Small networks of crystals for tests, and what they predict."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from tests import crystals
from tests.model.test_network import ARMS
from tests.nn.item_first.test_shell_pairs import orbital_rotation
from tracegrad.backbones.deeph2 import DeepH2
from tracegrad.backbones.deeph_e3 import DeepHE3
from tracegrad.backbones.harmose import HarmoSE
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.graph import HamiltonianGraph, collate, crystal_graph
from tracegrad.model.network import HamiltonianModel
from tracegrad.nn.interface import Backbone
from tracegrad.nn.invariant.tracegrad import TraceGrad

DEEPH_E3 = {"irreps": "6x0e+4x1o+3x2e+2x3o", "embed": 5, "blocks": 2, "lmax": 3, "radial": 7}
HARMOSE = {**DEEPH_E3, "layers": 2, "width": 8, "heads": 2}
DEEPH2 = {
    "irreps": "6x0e+4x1o+4x2e+2x3o+2x4e+2x5o",
    "blocks": 2,
    "logits": 3,
    "embed": 6,
    "radial": 7,
    "neighbours": 3.0,
}
BOTH_ARMS = pytest.mark.parametrize("arm", ["none", "tracegrad"])


def with_tracegrad(backbone: Backbone, arm: str) -> HamiltonianModel:
    """A network in float64 without biases of zero, which would hide mistakes, except in HarmoSE's correction."""
    tracegrad = partial(TraceGrad, **ARMS[arm], channels=8, hidden=8, w="full")
    model = HamiltonianModel(backbone, tracegrad).double()
    for name, parameter in model.named_parameters():
        if name.endswith("bias") and "transformer" not in name:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def deeph_e3(basis: OrbitalBasis, arm: str = "none", **options) -> HamiltonianModel:
    """DeepH-E3."""
    return with_tracegrad(DeepHE3(basis, **{**DEEPH_E3, **options}), arm)


def deeph2(basis: OrbitalBasis, arm: str = "none", **options) -> HamiltonianModel:
    """The DeepH-2-style network."""
    return with_tracegrad(DeepH2(basis, **{**DEEPH2, **options}), arm)


def harmose(basis: OrbitalBasis, arm: str = "none", *, fresh: bool = False, **options) -> HamiltonianModel:
    """HarmoSE in evaluation mode; unless it is fresh, its correction is not zero."""
    model = with_tracegrad(HarmoSE(basis, **{**HARMOSE, **options}), arm).eval()
    if not fresh:
        for parameter in model.backbone.transformer.last.parameters():
            nn.init.normal_(parameter, 0.0, 0.3)
    return model


def graph_of(
    *samples: crystals.Crystal, basis: OrbitalBasis, dtype: torch.dtype = torch.float64
) -> HamiltonianGraph:
    """A batch of crystals without labels."""
    return collate([crystal_graph(*sample, basis, dtype=dtype) for sample in samples])


def blocks_of(model: HamiltonianModel, *samples: crystals.Crystal) -> torch.Tensor:
    """Predicted blocks of crystals."""
    dtype = next(model.parameters()).dtype
    with torch.inference_mode():
        return model(graph_of(*samples, basis=model.basis, dtype=dtype)).blocks["edge"]


def turning_error(model: HamiltonianModel, rotation: torch.Tensor, *, low: bool) -> float:
    """Relative difference of H of turned MoS2 from the turned H, of a spinful network in float32 or bfloat16."""

    def blocks(sample: crystals.Crystal) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            of_edges = blocks_of(model, sample)
        assert of_edges.dtype == torch.complex64
        return of_edges.to(torch.complex128)

    u, reference = orbital_rotation(model.basis, rotation), blocks(crystals.MOS2)
    difference = blocks(rotated(crystals.MOS2, rotation)) - u @ reference @ u.mH
    return float(difference.norm() / reference.norm())


def rotated(sample: crystals.Crystal, rotation: torch.Tensor) -> crystals.Crystal:
    """A crystal turned by a matrix for (x, y, z)."""
    numbers, positions, lattice, edges = sample
    return numbers, positions @ rotation.numpy().T, lattice @ rotation.numpy().T, edges


def by_images(sample: crystals.Crystal) -> crystals.Crystal:
    """A crystal of three atoms that are represented by images in other cells: the same crystal."""
    numbers, positions, lattice, edges = sample
    shifts = np.array([[1, 0, 0], [0, -2, 1], [0, 0, 0]])
    relabelled = edges.copy()
    relabelled[:, :3] += shifts[edges[:, 3]] - shifts[edges[:, 4]]
    return numbers, positions + shifts @ lattice, lattice, relabelled


def in_another_cell(sample: crystals.Crystal) -> crystals.Crystal:
    """The same crystal with lattice vectors b = M a, where det M = 1, and cells R' = R M^-1."""
    numbers, positions, lattice, edges = sample
    change = np.array([[1, 1, 0], [0, 1, 0], [2, 0, 1]])
    relabelled = edges.copy()
    relabelled[:, :3] = edges[:, :3] @ np.rint(np.linalg.inv(change)).astype(int)
    return numbers, positions, change @ lattice, relabelled


def reordered(sample: crystals.Crystal) -> tuple[crystals.Crystal, np.ndarray]:
    """A crystal of three atoms with atoms and edges in another order, and the former position of each edge."""
    numbers, positions, lattice, edges = sample
    order, edge_order = np.array([2, 0, 1]), np.random.default_rng(2).permutation(len(edges))
    permuted = edges[edge_order].copy()
    permuted[:, 3:] = np.argsort(order)[permuted[:, 3:]]
    return (numbers[order], positions[order], lattice, permuted), edge_order
