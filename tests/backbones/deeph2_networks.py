"""Small DeepH-2-style networks for tests."""

from functools import partial

import torch

from tests import crystals
from tests.model.test_network import ARMS
from tracegrad.backbones.deeph2 import DeepH2
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.graph import collate, crystal_graph
from tracegrad.model.network import HamiltonianModel
from tracegrad.nn.invariant.tracegrad import TraceGrad

SIZES = {
    "irreps": "6x0e+4x1o+4x2e+2x3o+2x4e+2x5o",
    "blocks": 2,
    "logits": 3,
    "embed": 6,
    "radial": 7,
    "neighbours": 3.0,
}


def make_model(basis: OrbitalBasis, arm: str = "none", **options) -> HamiltonianModel:
    tracegrad = partial(TraceGrad, **ARMS[arm], channels=8, hidden=8, w="full")
    model = HamiltonianModel(DeepH2(basis, **{**SIZES, **options}), tracegrad).double()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # they start at zero, which would hide mistakes
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def graph_of(*samples: crystals.Crystal, basis: OrbitalBasis):
    return collate([crystal_graph(*sample, basis, dtype=torch.float64) for sample in samples])


def blocks_of(model: HamiltonianModel, *samples: crystals.Crystal) -> torch.Tensor:
    with torch.inference_mode():
        return model(graph_of(*samples, basis=model.basis)).blocks["edge"]


def rotated(sample: crystals.Crystal, rotation: torch.Tensor) -> crystals.Crystal:
    numbers, positions, lattice, edges = sample
    return numbers, positions @ rotation.numpy().T, lattice @ rotation.numpy().T, edges
