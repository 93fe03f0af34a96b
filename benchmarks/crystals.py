"""Tasks "crystals" and "spinful": DeepH-E3 on graphene and Bi2Te3 against its plain e3nn form, and the arms."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.arms import time_arms
from benchmarks.layers import labelled, layer_graph
from benchmarks.networks import Rivals, time_networks
from benchmarks.timing import Timing
from tests.oracles.deeph_e3_blocks import blocks_from_irreps, default_irreps, degrees_of, targets_of
from tests.oracles.deeph_e3_e3nn import PlainDeepHE3
from tracegrad.backbones.deeph_e3 import DeepHE3
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.graph import HamiltonianGraph, collate
from tracegrad.model.network import HamiltonianModel
from tracegrad.nn.invariant.tracegrad import TraceGrad
from tracegrad.physics.crystals.layers import CRYSTALS, Crystal, crystal_cell
from tracegrad.reports.arms import ARMS, LEAN
from tracegrad.weights.released.deeph_e3 import export_deeph_e3

GRAPHENE, BISMUTH_TELLURIDE = CRYSTALS["MG"], CRYSTALS["BT"]


@dataclass(frozen=True)
class CrystalSizes:
    """Sizes of the network and of the cell; the defaults are those of the paper."""

    irreps: str
    embed: int
    blocks: int
    shells: tuple[str, ...]
    tracegrad: Mapping[str, Any]
    cells: int  # unit cells along each lattice vector
    spinful: bool = False

    @property
    def basis(self) -> OrbitalBasis:
        return OrbitalBasis.openmx(self.shells, self.spinful)

    def backbone(self, **options: Any) -> DeepHE3:
        """DeepH-E3 of these sizes."""
        return DeepHE3(self.basis, self.irreps, self.embed, self.blocks, **options)

    def model(self, *, trace: bool, grad: bool, lean: bool = False) -> HamiltonianModel:
        """DeepH-E3 of these sizes with TraceGrad and a full W, as in the recipes."""
        return HamiltonianModel(
            self.backbone(), partial(TraceGrad, trace=trace, grad=grad, w="full", lean=lean, **self.tracegrad)
        )


_RECIPE = {"channels": 1024, "hidden": 1024}
_IRREPS = "64x0e+32x1o+16x2e+8x3o+8x4e"
FULL = CrystalSizes(_IRREPS, 64, 3, ("C6.0-s2p2d1",), _RECIPE, 6)
SMALL = CrystalSizes("4x0e+2x1o", 4, 2, ("C6.0-s1p1",), {"channels": 8, "hidden": 8}, 2)
SPINFUL = CrystalSizes(_IRREPS, 64, 3, ("Bi8.0-s3p2d2", "Te7.0-s3p2d2"), _RECIPE, 2, spinful=True)
SPINFUL_SMALL = CrystalSizes(
    "4x0e+2x1o", 4, 2, ("Bi4.0-s1", "Te4.0-s1"), {"channels": 8, "hidden": 8}, 1, spinful=True
)


class PlainOnGraph(nn.Module):
    """The plain form for graphs of TraceGrad. It returns the irreps of H and does not assemble the blocks."""

    def __init__(self, fast: DeepHE3, sizes: CrystalSizes):
        super().__init__()
        self.plain = plain_copy(fast, sizes)
        kinds = torch.zeros(max(fast.basis.elements) + 1, dtype=torch.long)
        kinds[list(fast.basis.elements)] = torch.arange(len(fast.basis.elements))
        self.register_buffer("kind_of_number", kinds)
        self.kind_of_number: Tensor

    def forward(self, graph) -> Tensor:
        attributes = torch.cat([graph.vectors.norm(dim=1, keepdim=True), graph.vectors], dim=1)
        kinds = self.kind_of_number[graph.numbers]
        return self.plain(kinds, graph.edge_index, attributes, graph.batch)[1]


def shells_of(basis: OrbitalBasis) -> tuple[list[int], list[list[int]]]:
    """Elements and their shells in the format of the plain form."""
    return list(basis.elements), [list(basis.shells[z]) for z in basis.elements]


def plain_copy(fast: DeepHE3, sizes: CrystalSizes) -> PlainDeepHE3:
    """The plain e3nn form with the same weights, except its last node map, which does not enter H."""
    plain = PlainDeepHE3(
        **default_irreps(
            *shells_of(fast.basis),
            fast.basis.spinful,
            irreps_embed=f"{sizes.embed}x0e",
            irreps_mid=sizes.irreps,
            num_block=sizes.blocks,
        )
    )
    unused = {key: value for key, value in plain.state_dict().items() if key.startswith("lin_node.")}
    weights = {
        key: value.view(plain.get_parameter(key).shape) for key, value in export_deeph_e3(fast).items()
    }
    plain.load_state_dict(weights | unused)
    return plain


@torch.inference_mode()
def difference(plain: PlainOnGraph, fast: DeepHE3, graph) -> float:
    """Largest difference between the norms of the blocks of both forms, relative to the largest norm."""
    elements, shells = shells_of(fast.basis)
    degrees = degrees_of(targets_of(elements, shells), elements, shells)
    h = blocks_from_irreps(plain(graph), degrees, fast.basis.spinful)
    expected, actual = h.flatten(1).norm(dim=1), fast(graph)["edge"].flatten(1).norm(dim=1)
    return float((expected - actual).abs().max() / expected.max())


def against_e3nn(
    name: str, sizes: CrystalSizes, graph, repeats: int, device: str
) -> tuple[list[Timing], list[str]]:
    """Time DeepH-E3 without and with TraceGrad against its plain e3nn form, which does not assemble blocks of H."""
    model = sizes.model(trace=True, grad=True)
    assert isinstance(model.backbone, DeepHE3)
    plain = PlainOnGraph(model.backbone, sizes).to(device)
    model.to(device)
    apart = difference(plain, model.backbone, graph)
    rivals = Rivals(name, plain, lambda _: lambda output: output.square().mean(), model)
    timings, notes = time_networks(rivals, graph, graph, repeats, device)
    size = f"{graph.num_nodes} atoms, {graph.num_edges} edges, {len(sizes.basis.union) ** 2} blocks of each"
    note = f"{name}: {size}; norms of the blocks of both forms differ by {apart:.1e} of the largest"
    return timings, [note, *notes]


def crystal_of(
    crystal: Crystal, sizes: CrystalSizes, rng: np.random.Generator, *, spacing: float = 30.0
) -> HamiltonianGraph:
    """A graph of some unit cells with random labels, and with vacuum between periodic images of the layers."""
    cell = crystal_cell(crystal, spacing, (sizes.cells, sizes.cells))
    return labelled(layer_graph(cell, sizes.basis, rng), sizes.basis, rng)


def crystal_tasks(
    sizes: CrystalSizes, rng: np.random.Generator, repeats: int, device: str
) -> tuple[list[Timing], list[str]]:
    """Graphene: DeepH-E3 against its plain form, and the arms of the ablation."""
    graph = collate([crystal_of(GRAPHENE, sizes, rng)]).to(device)
    timings, notes = against_e3nn("DeepH-E3", sizes, graph, repeats, device)
    models = {arm: sizes.model(trace=trace, grad=grad).to(device) for arm, (trace, grad) in ARMS.items()}
    models[LEAN] = sizes.model(trace=True, grad=True, lean=True).to(device)
    return timings + time_arms("DeepH-E3", models, graph, repeats, device), notes


def spinful_tasks(
    sizes: CrystalSizes, rng: np.random.Generator, repeats: int, device: str
) -> tuple[list[Timing], list[str]]:
    """A bilayer of Bi2Te3 with spin-orbit coupling: DeepH-E3 against its plain form."""
    graph = collate([crystal_of(BISMUTH_TELLURIDE, sizes, rng)]).to(device)
    return against_e3nn("DeepH-E3 spinful", sizes, graph, repeats, device)
