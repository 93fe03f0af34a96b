"""Time and memory that predicting the Hamiltonian of a crystal will take."""

import time
from dataclasses import dataclass

import numpy as np
import torch

from tracegrad.data.crystals.structure import Structure
from tracegrad.hamiltonian.blocks import block_starts
from tracegrad.hamiltonian.graph import collate, crystal_graph
from tracegrad.model.network import HamiltonianModel

TRIAL_EDGES = 2048
# Edge features in memory at the same time: old, mixed, normalised and new ones.
FEATURES_OF_ALL_EDGES = 4
# Intermediate features of one chunk of edges: inputs, their components by |m|, products.
FEATURES_OF_A_CHUNK = 16


@dataclass(frozen=True)
class PredictionCost:
    """Time (seconds) and memory (bytes) of a prediction, without the memory of the program itself."""

    seconds: float
    bytes: int

    def __str__(self) -> str:
        time_ = f"about {self.seconds:.0f} s" if self.seconds >= 1 else "less than 1 s"
        megabytes = self.bytes / 1e6
        return f"{time_}, {megabytes:,.0f} MB" if megabytes < 1000 else f"{time_}, {megabytes / 1000:.1f} GB"


def estimate_cost(model: HamiltonianModel, structure: Structure) -> PredictionCost:
    """Cost of predicting H of a structure.

    The time, that of both spins of a collinear basis, is extrapolated from a trial with `TRIAL_EDGES` edges; the
    memory follows from the sizes of the features, with factors measured for `DeepHE3`.
    """
    backbone = model.backbone
    edges = len(structure.edges)
    chosen = np.sort(np.random.default_rng(0).permutation(edges)[:TRIAL_EDGES])
    seconds = _trial_seconds(model, structure, structure.edges[chosen]) * edges / len(chosen)

    parameter = next(model.parameters())
    widest = max(irreps.dim for irreps in backbone.feature_irreps["edge"])
    degrees = {ir.l for irreps in backbone.feature_irreps["edge"] for _, ir in irreps}
    frame = backbone.basis.spins * sum((2 * degree + 1) ** 2 for degree in degrees)
    blocks = backbone.basis.dim**2 * backbone.basis.spins
    pairs = max(sum(mul**2 for mul, _ in irreps) for irreps in backbone.feature_irreps["edge"])
    of_blocks = FEATURES_OF_ALL_EDGES * pairs if len(model.tracegrad.blocks) else 0
    of_chunk = FEATURES_OF_A_CHUNK * widest + of_blocks + getattr(backbone, "grid_numbers", 0)
    chunk = min(edges, getattr(backbone, "edge_chunk", None) or edges)
    of_edge = FEATURES_OF_ALL_EDGES * widest + frame + 2 * blocks + backbone.further_edge_numbers()
    numbers = edges * of_edge + chunk * of_chunk
    return PredictionCost(seconds * len(backbone.basis.channels), numbers * parameter.element_size())


@torch.inference_mode()
def _trial_seconds(model: HamiltonianModel, structure: Structure, edges: np.ndarray) -> float:
    """Seconds that a prediction takes for some edges of the structure; its result is discarded."""
    parameter = next(model.parameters())
    both = np.unique(np.concatenate([edges, _reversed(edges)]), axis=0)
    graph = crystal_graph(
        structure.numbers,
        structure.positions,
        structure.lattice,
        both,
        model.basis,
        h0=None
        if model.h0 is None
        else np.zeros(block_starts(both[:, 3:].T, structure.numbers, model.basis)[-1]),
        spin=model.basis.channels[0],
        dtype=parameter.dtype,
    )
    batch = collate([graph]).to(parameter.device)
    times = []
    for _ in range(2):  # the first pass is a warm-up
        started = time.perf_counter()
        model(batch, traces=False)
        if parameter.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return times[-1] * len(edges) / len(both)


def _reversed(edges: np.ndarray) -> np.ndarray:
    """[-R, j, i] for each edge [R, i, j]."""
    return np.concatenate([-edges[:, :3], edges[:, :2:-1]], axis=1)
