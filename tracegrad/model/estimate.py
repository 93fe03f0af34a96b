"""What the Hamiltonian of a crystal will cost, before it is predicted."""

import time
from dataclasses import dataclass

import numpy as np
import torch

from tracegrad.data.crystals.structure import Structure
from tracegrad.hamiltonian.graph import collate, crystal_graph
from tracegrad.model.network import HamiltonianModel

PROBE = 2048  # edges of the trial
# Features of edges that are held at a time: old, mixed, normalised and new ones.
HELD = 4
# Features that the layers make of the edges of a chunk on their way: inputs, their components by |m|, products.
PASSING = 16


@dataclass(frozen=True)
class Estimate:
    """Time and memory of a prediction, without what the program needs anyway."""

    seconds: float
    bytes: int

    def __str__(self) -> str:
        time_ = f"about {self.seconds:.0f} s" if self.seconds >= 1 else "less than 1 s"
        megabytes = self.bytes / 1e6
        return f"{time_}, {megabytes:,.0f} MB" if megabytes < 1000 else f"{time_}, {megabytes / 1000:.1f} GB"


def estimate(model: HamiltonianModel, structure: Structure) -> Estimate:
    """Time from a trial with some of the edges, memory from the sizes of the features (measured for `DeepHE3`)."""
    backbone = model.backbone
    edges = len(structure.edges)
    chosen = np.sort(np.random.default_rng(0).permutation(edges)[:PROBE])
    seconds = _trial(model, structure, structure.edges[chosen]) * edges / len(chosen)

    parameter = next(model.parameters())
    widest = max(irreps.dim for irreps in backbone.feature_irreps["edge"])
    degrees = {ir.l for irreps in backbone.feature_irreps["edge"] for _, ir in irreps}
    frame = backbone.basis.spins * sum((2 * degree + 1) ** 2 for degree in degrees)
    blocks = backbone.basis.dim**2 * backbone.basis.spins
    pairs = max(sum(mul**2 for mul, _ in irreps) for irreps in backbone.feature_irreps["edge"])
    passing = PASSING * widest + (HELD * pairs if len(model.tracegrad.blocks) else 0)
    chunk = min(edges, getattr(backbone, "edge_chunk", None) or edges)
    numbers = edges * (HELD * widest + frame + 2 * blocks) + chunk * passing
    return Estimate(seconds, numbers * parameter.element_size())


@torch.inference_mode()
def _trial(model: HamiltonianModel, structure: Structure, edges: np.ndarray) -> float:
    """Seconds for some edges of the structure, whose result is of no use."""
    parameter = next(model.parameters())
    closed = np.unique(np.concatenate([edges, _reversed(edges)]), axis=0)
    graph = crystal_graph(
        structure.numbers,
        structure.positions,
        structure.lattice,
        closed,
        model.basis,
        dtype=parameter.dtype,
    )
    batch = collate([graph]).to(parameter.device)
    times = []
    for _ in range(2):  # the first one warms up
        started = time.perf_counter()
        model(batch, traces=False)
        if parameter.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return times[-1] * len(edges) / len(closed)


def _reversed(edges: np.ndarray) -> np.ndarray:
    return np.concatenate([-edges[:, :3], edges[:, :2:-1]], axis=1)
