"""Task "molecules": QHNet against its plain e3nn form, and the arms."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch

from benchmarks.arms import loss_of, time_arms
from benchmarks.networks import Rivals, time_networks
from benchmarks.timing import Timing
from tests.oracles.qhnet_e3nn import plain_copy
from tracegrad.backbones.qhnet import QHNet
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.graph import HamiltonianGraph, collate, molecule_graph
from tracegrad.model.network import HamiltonianModel
from tracegrad.nn.invariant.tracegrad import TraceGrad
from tracegrad.reports.arms import ARMS, LEAN


@dataclass(frozen=True)
class Sizes:
    """Sizes of networks and data; the defaults are those of the paper."""

    network: Mapping[str, Any]
    tracegrad: Mapping[str, Any]
    rows: int
    batch: int

    def model(
        self,
        basis: OrbitalBasis,
        *,
        trace: bool,
        grad: bool,
        w: Literal["low_rank", "projected"] = "low_rank",
        lean: bool = False,
    ) -> HamiltonianModel:
        """QHNet with TraceGrad, low-rank W as in the recipes."""
        make = partial(TraceGrad, trace=trace, grad=grad, w=w, lean=lean, **self.tracegrad)
        return HamiltonianModel(QHNet(basis, **self.network), make)


FULL = Sizes({"species": 10}, {"channels": 1024, "hidden": 1024}, 300, 32)
SMALL = Sizes(
    {"lmax": 2, "channels": 4, "bottleneck": 2, "layers": 2, "pair_layers": 1, "radial": 4},
    {"channels": 8, "hidden": 8},
    40,
    4,
)


def random_molecule(rng: np.random.Generator, atoms: int) -> tuple[np.ndarray, np.ndarray]:
    """A chain-like molecule: half heavy atoms 1.45 angstrom apart, half hydrogens 1.08 from a heavy atom."""
    heavy = max(1, atoms // 2)
    numbers = np.array([*rng.choice([6, 7, 8], heavy, p=[0.7, 0.15, 0.15]), *[1] * (atoms - heavy)])
    positions = [np.zeros(3)]
    while len(positions) < atoms:
        length, closest = (1.45, 1.4) if len(positions) < heavy else (1.08, 1.0)
        direction = rng.normal(size=3)
        anchor = positions[rng.integers(min(len(positions), heavy))]
        candidate = anchor + length * direction / np.linalg.norm(direction)
        if min(np.linalg.norm(candidate - other) for other in positions) >= closest:
            positions.append(candidate)
    return numbers, np.array(positions)


def random_matrix(rng: np.random.Generator, numbers: np.ndarray, basis: OrbitalBasis) -> np.ndarray:
    """A random symmetric matrix of the size of a Hamiltonian."""
    matrix = rng.normal(size=(2, basis.sizes[numbers].sum()))
    return matrix.T @ matrix


def random_graphs(rng: np.random.Generator, molecules: int, atoms: int, basis) -> list[HamiltonianGraph]:
    """Graphs of random molecules with random labels, in float32."""
    drawn = [random_molecule(rng, atoms) for _ in range(molecules)]
    return [
        molecule_graph(numbers, positions, basis, hamiltonian=random_matrix(rng, numbers, basis))
        for numbers, positions in drawn
    ]


def against_e3nn(
    sizes: Sizes, graphs: tuple[Any, Any], basis: OrbitalBasis, repeats: int, device: str
) -> tuple[list[Timing], list[str]]:
    """Time QHNet without and with TraceGrad against its plain e3nn form; a note states how much they differ."""
    model = sizes.model(basis, trace=True, grad=True).to(device)
    assert isinstance(model.backbone, QHNet)
    plain = plain_copy(model.backbone)
    with torch.inference_mode():
        a, b = model.backbone(graphs[0]), plain(graphs[0])
    apart = max(float((a[site] - b[site]).abs().max()) for site in a)
    largest = float(b["edge"].abs().max())
    rivals = Rivals("QHNet", plain, partial(loss_of, basis), model)
    timings, notes = time_networks(rivals, *graphs, repeats, device)
    note = f"QHNet: largest difference of the blocks of both forms {apart:.1e} (values up to {largest:.1e})"
    return timings, [note, *notes]


def cost_of_arms(sizes: Sizes, graph, basis: OrbitalBasis, repeats: int, device: str) -> list[Timing]:
    """Time the arms with QHNet and a low-rank W, the last one also with a projected W, and the lean block."""
    models = {
        arm: sizes.model(basis, trace=trace, grad=grad).to(device) for arm, (trace, grad) in ARMS.items()
    }
    projected = sizes.model(basis, trace=True, grad=True, w="projected").to(device)
    lean = sizes.model(basis, trace=True, grad=True, lean=True).to(device)
    return time_arms(
        "QHNet", models | {"tracegrad, projected W": projected, LEAN: lean}, graph, repeats, device
    )


def molecule_tasks(
    sizes: Sizes, rng: np.random.Generator, molecules: int, atoms: int, repeats: int, device: str
) -> tuple[list[Timing], list[str]]:
    """Timings and notes for molecules.

    A CPU uses one batch for everything; a GPU predicts one molecule and trains on the batch of the recipe.
    """
    basis = OrbitalBasis.def2_svp()
    counts = (1, sizes.batch) if device.startswith("cuda") else (molecules, molecules)
    drawn = random_graphs(rng, max(counts), atoms, basis)
    predicted, trained = (collate(drawn[:count]).to(device) for count in counts)
    timings, notes = against_e3nn(sizes, (predicted, trained), basis, repeats, device)
    timings += cost_of_arms(sizes, trained, basis, repeats, device)
    note = f"molecules: {counts[0]} of {atoms} atoms, {predicted.num_edges} pairs"
    if counts[1] != counts[0]:
        note += f"; in training {counts[1]}, {trained.num_edges} pairs"
    return timings, [note, *notes]
