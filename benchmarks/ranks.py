"""Task "ranks": a batch divided among ranks by number of molecules or by pairs of atoms."""

import numpy as np

from benchmarks.arms import loss_of
from benchmarks.molecules import Sizes, random_graphs
from benchmarks.timing import Timing, measure, training_step
from tracegrad.backbones.qhnet import QHNet
from tracegrad.data.loading.sampler import TrainingBatches, imbalance, shares
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.graph import collate

RANKS = 4
# Atoms of the molecules of QM9, on which QH9 is built: mean and standard deviation.
ATOMS = (18.0, 3.0)


def rank_tasks(
    sizes: Sizes, rng: np.random.Generator, repeats: int, device: str
) -> tuple[list[Timing], list[str]]:
    """Step time of the slowest rank, with the ranks timed one after another, and the imbalance over an epoch."""
    basis = OrbitalBasis.def2_svp()
    drawn = rng.normal(*ATOMS, size=(100, sizes.batch)).round().clip(3, 29)
    atoms = drawn[0].astype(int)
    graphs = [random_graphs(rng, 1, int(n), basis)[0] for n in atoms]
    ways = {"by number": by_number(sizes.batch), "by pairs": shares(atoms.astype(float) ** 2, RANKS)}
    network = QHNet(basis, **sizes.network).to(device)
    steps = {}
    for way, parts in ways.items():
        for rank, part in enumerate(parts):
            graph = collate([graphs[i] for i in part]).to(device)
            steps[f"{way}, rank {rank}"] = training_step(network, loss_of(basis, graph), graph)
    rank_timings = measure("", steps, repeats, device)
    slowest = [
        max(rank_timings[i : i + RANKS], key=lambda t: t.median) for i in range(0, len(rank_timings), RANKS)
    ]
    task = f"step of the slowest of {RANKS} ranks"
    timings = [
        Timing(task, way, t.median, t.lowest, t.highest, t.median / slowest[0].median)
        for way, t in zip(ways, slowest, strict=True)
    ]
    return timings, [f"ranks: {line}" for line in over_an_epoch(drawn.ravel() ** 2, sizes.batch)]


def over_an_epoch(costs: np.ndarray, batch: int) -> list[str]:
    """Lines about the imbalance of ranks over an epoch: the most expensive share of a batch over the mean share.

    A batch takes as long as its most expensive share; the cost of a molecule is its number of pairs of atoms.
    """
    lines = []
    for world in (2, 4, 8, 16):
        if world > batch:
            break
        batches = TrainingBatches(costs, batch, world=world)
        pairs = [imbalance(costs[b], shares(costs[b], world)) for b in batches.global_batches()]
        numbers = [imbalance(costs[b], by_number(len(b), world)) for b in batches.global_batches()]
        lines.append(
            f"{world} ranks, most expensive share over the mean: {np.mean(numbers):.3f} (worst {max(numbers):.3f}) "
            f"by number, {np.mean(pairs):.3f} (worst {max(pairs):.3f}) by pairs"
        )
    return lines


def by_number(samples: int, world: int = RANKS) -> list[np.ndarray]:
    """Molecules of each rank if they are dealt out one after another."""
    return [np.arange(rank, samples, world) for rank in range(world)]
