"""Task "sizes": forward pass of DeepH-E3 for twisted bilayers of graphene of different sizes, edges in chunks."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks.compare import compare
from benchmarks.crystals import CrystalSizes
from benchmarks.layers import layer_graph
from benchmarks.timing import Timing, forward
from tracegrad.hamiltonian.graph import collate
from tracegrad.physics.crystals.layers import CRYSTALS
from tracegrad.physics.crystals.twist import Twist, twisted_cell

HEIGHT = 18.0  # angstrom


@dataclass(frozen=True)
class Cells:
    """Sizes of the task: m of the twists (m, m - 1), and the number of edges that a layer processes at a time."""

    twists: tuple[int, ...]
    edge_chunk: int


FULL = Cells((4, 6, 9, 13), 8192)  # 148, 364, 868 and 1,876 atoms
SMALL = Cells((2, 3), 1000)


def cell_tasks(
    cells: Cells, sizes: CrystalSizes, rng: np.random.Generator, repeats: int, device: str
) -> tuple[list[Timing], list[str]]:
    """Time and memory for each size, and by how much the time per atom varies."""
    basis = sizes.basis
    model = sizes.backbone(edge_chunk=cells.edge_chunk).to(device)
    graphs = {}
    for m in cells.twists:
        atoms = twisted_cell(CRYSTALS["BG"], Twist(m, m - 1), HEIGHT)
        graphs[f"{len(atoms):,} atoms"] = collate([layer_graph(atoms, basis, rng)]).to(device)
    ways = {name: partial(forward, model, graph) for name, graph in graphs.items()}
    task = f"DeepH-E3 forward of twisted bilayers, chunks of {cells.edge_chunk:,} edges"
    timings = compare(task, ways, repeats, device)
    per_atom = [1e3 * t.median / graph.num_nodes for t, graph in zip(timings, graphs.values(), strict=True)]
    lines = [
        f"{way}: {graph.num_edges / graph.num_nodes:.1f} edges, {spent:.2f} ms and "
        f"{t.peak * 1024 / graph.num_nodes:,.0f} KiB per atom"
        for (way, graph), spent, t in zip(graphs.items(), per_atom, timings, strict=True)
        if t.peak is not None
    ]
    spread = max(per_atom) / min(per_atom) - 1
    return timings, [*lines, f"time per atom: the largest is {spread:.1%} above the smallest"]
