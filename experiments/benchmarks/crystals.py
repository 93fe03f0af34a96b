"""Timed tasks of crystals: DeepH-E3 against its plain e3nn form, and the arms."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from experiments.benchmarks.arms import SWITCHES, loss_of, time_arms
from experiments.benchmarks.data import crystal_data_task
from experiments.timing import Timing, forward, measure, training_step
from tests.oracles.deeph_e3_e3nn import PlainDeepHE3, default_irreps
from tracegrad.backbones.deeph_e3 import DeepHE3
from tracegrad.basis import OrbitalBasis
from tracegrad.graph import HamiltonianGraph, collate, crystal_graph
from tracegrad.interop.deeph_e3 import export_deeph_e3
from tracegrad.model import HamiltonianModel
from tracegrad.nn.tracegrad import TraceGrad

CARBON = 6
BOND = 1.42  # angstrom
RANGE = 12 * 0.529177249  # angstrom: two radii of C6.0 orbitals


@dataclass(frozen=True)
class CrystalSizes:
    """Sizes of the network and of the cell; the defaults are those of the paper."""

    irreps: str
    embed: int
    blocks: int
    shells: str
    tracegrad: Mapping[str, Any]
    cells: int  # of graphene along each lattice vector, two atoms each


FULL = CrystalSizes("64x0e+32x1o+16x2e+8x3o+8x4e", 64, 3, "s2p2d1", {"channels": 1024, "hidden": 1024}, 6)
SMALL = CrystalSizes("4x0e+2x1o+2x2e", 4, 2, "s1p1", {"channels": 8, "hidden": 8}, 2)


def graphene(cells: int, basis: OrbitalBasis, rng: np.random.Generator) -> HamiltonianGraph:
    """Graphene with thermal displacements, random hermitian labels, and the edges that OpenMX would store."""
    length = BOND * np.sqrt(3)
    cell = length * np.array([[1, 0, 0], [-0.5, np.sqrt(0.75), 0], [0, 0, 8.0]])
    corners = np.stack(np.meshgrid(range(cells), range(cells), [0], indexing="ij"), -1).reshape(-1, 1, 3)
    fractional = (corners + np.array([[0, 0, 0], [1 / 3, 2 / 3, 0]])).reshape(-1, 3)
    positions = fractional @ cell + rng.normal(scale=0.03, size=fractional.shape)
    lattice = cell * np.array([[cells], [cells], [1]])
    reach = int(np.ceil(RANGE / (cells * length * np.sqrt(0.75)))) + 1
    shifts = np.stack(np.meshgrid(*[range(-reach, reach + 1)] * 2, [0], indexing="ij"), -1).reshape(-1, 3)
    vectors = positions[None, None] + (shifts @ lattice)[:, None, None] - positions[None, :, None]
    shift, i, j = np.nonzero(np.linalg.norm(vectors, axis=-1) < RANGE)
    edges = np.concatenate([shifts[shift], np.stack([i, j], axis=1)], axis=1)
    numbers = np.full(len(positions), CARBON)
    graph = crystal_graph(numbers, positions, lattice, edges, basis)
    label = torch.from_numpy(rng.normal(size=(len(edges), basis.dim, basis.dim))).float()
    graph.h_edge = label + label[graph.reverse].mT
    return graph


def plain_copy(fast: DeepHE3, sizes: CrystalSizes) -> PlainDeepHE3:
    """The plain e3nn form with the same weights; its last node map, which H does not need, is random."""
    basis = fast.basis
    plain = PlainDeepHE3(
        **default_irreps(
            list(basis.elements),
            [list(basis.shells[z]) for z in basis.elements],
            basis.spinful,
            irreps_embed=f"{sizes.embed}x0e",
            irreps_mid=sizes.irreps,
            num_block=sizes.blocks,
        )
    )
    idle = {key: value for key, value in plain.state_dict().items() if key.startswith("lin_node.")}
    own = {key: value.view(plain.get_parameter(key).shape) for key, value in export_deeph_e3(fast).items()}
    plain.load_state_dict(own | idle)
    return plain


def against_e3nn(
    sizes: CrystalSizes, graph, basis: OrbitalBasis, repeats: int, device: str
) -> tuple[list[Timing], str]:
    """DeepH-E3 with its blocks of H against the plain e3nn form without them."""
    fast = DeepHE3(basis, sizes.irreps, sizes.embed, sizes.blocks)
    plain = plain_copy(fast, sizes).to(device)
    fast.to(device)
    kinds = torch.zeros_like(graph.numbers)
    attributes = torch.cat([graph.vectors.norm(dim=1, keepdim=True), graph.vectors], dim=1)
    inputs = (kinds, graph.edge_index, attributes, graph.batch)
    with torch.inference_mode():
        outputs, blocks = plain(*inputs)[1], fast(graph)["edge"]
    # The squares of C^{l1 l2 L}_{m1 m2 M} for one M sum up to 1 / (2 L + 1).
    weights = torch.cat([torch.full((ir.dim,), 1 / ir.dim) for _, ir in plain.lin_edge.irreps_out]).to(device)
    expected, found = (outputs.square() @ weights).sqrt(), blocks.flatten(1).norm(dim=1)
    apart = float((expected - found).abs().max() / expected.max())
    ways = {"plain e3nn": partial(forward, plain, *inputs), "tracegrad": partial(forward, fast, graph)}
    timings = measure("DeepH-E3 forward", ways, repeats, device)
    steps = {
        "plain e3nn": training_step(plain, lambda found: found[1].square().mean(), *inputs),
        "tracegrad": training_step(fast, loss_of(basis, graph), graph),
    }
    timings += measure("DeepH-E3 training step", steps, repeats, device)
    note = f"DeepH-E3: norms of the blocks of both forms differ by {apart:.1e} of the largest"
    return timings, note


def cost_of_arms(sizes: CrystalSizes, graph, basis: OrbitalBasis, repeats: int, device: str) -> list[Timing]:
    """What each arm of the ablation adds to DeepH-E3 with a full W."""
    models = {}
    for arm, (trace, grad) in SWITCHES.items():
        make = partial(TraceGrad, trace=trace, grad=grad, w="full", **sizes.tracegrad)
        models[arm] = HamiltonianModel(DeepHE3(basis, sizes.irreps, sizes.embed, sizes.blocks), make).to(
            device
        )
    return time_arms("DeepH-E3", models, graph, repeats, device)


def crystal_tasks(
    sizes: CrystalSizes, rng: np.random.Generator, repeats: int, device: str
) -> tuple[list[Timing], list[str]]:
    """All tasks of crystals, and what to say about them."""
    basis = OrbitalBasis.openmx({CARBON: sizes.shells})
    graph = collate([graphene(sizes.cells, basis, rng)]).to(device)
    timings, note = against_e3nn(sizes, graph, basis, repeats, device)
    timings += cost_of_arms(sizes, graph, basis, repeats, device)
    data, notes = crystal_data_task([graphene(sizes.cells, basis, rng) for _ in range(3)], basis, repeats)
    return timings + data, [f"graphene: {graph.num_nodes} atoms, {graph.num_edges} edges", note, *notes]
