"""Timed tasks of molecules: QHNet against its plain e3nn form, the arms, TraceGrad's closed form, the data path."""

import sqlite3
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.benchmarks.arms import SWITCHES, loss_of, time_arms
from experiments.timing import Timing, forward, measure, training_step
from tests.oracles.qhnet_e3nn import plain_copy
from tracegrad.backbones.interface import Feature
from tracegrad.backbones.qhnet import QHNet
from tracegrad.basis import OrbitalBasis
from tracegrad.data.qh9 import QH9Database
from tracegrad.graph import HamiltonianGraph, collate, molecule_graph
from tracegrad.model import HamiltonianModel
from tracegrad.nn.tracegrad import TraceGrad, TraceGradBlock


@dataclass(frozen=True)
class Sizes:
    """Sizes of networks and data; the defaults are those of the paper."""

    network: Mapping[str, Any]
    tracegrad: Mapping[str, Any]
    rows: int
    batch: int


FULL = Sizes({"species": 10}, {"channels": 1024, "hidden": 1024}, 300, 32)
SMALL = Sizes(
    {"lmax": 2, "channels": 4, "bottleneck": 2, "layers": 2, "pair_layers": 1, "radial": 4},
    {"channels": 8, "hidden": 8},
    6,
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
    """A symmetric matrix in place of a Hamiltonian."""
    matrix = rng.normal(size=(2, basis.sizes[numbers].sum()))
    return matrix.T @ matrix


def random_graphs(rng: np.random.Generator, molecules: int, atoms: int, basis) -> list[HamiltonianGraph]:
    """Labelled graphs in float32."""
    drawn = [random_molecule(rng, atoms) for _ in range(molecules)]
    return [
        molecule_graph(numbers, positions, basis, hamiltonian=random_matrix(rng, numbers, basis))
        for numbers, positions in drawn
    ]


def against_e3nn(sizes: Sizes, graph, basis: OrbitalBasis, repeats: int, device: str):
    """QHNet against its plain e3nn form; the note states how far apart the results are."""
    fast = QHNet(basis, **sizes.network).to(device)
    plain = plain_copy(fast)
    with torch.inference_mode():
        a, b = fast(graph), plain(graph)
    apart = max(float((a[site] - b[site]).abs().max()) for site in a)
    largest = float(b["edge"].abs().max())
    ways = {"plain e3nn": plain, "tracegrad": fast}
    timings = measure(
        "QHNet forward", {k: partial(forward, m, graph) for k, m in ways.items()}, repeats, device
    )
    loss = loss_of(basis, graph)
    steps = {k: training_step(m, loss, graph) for k, m in ways.items()}
    timings += measure("QHNet training step", steps, repeats, device)
    return (
        timings,
        f"QHNet: largest difference of the blocks of both forms {apart:.1e} (values up to {largest:.1e})",
    )


def cost_of_arms(sizes: Sizes, graph, basis: OrbitalBasis, repeats: int, device: str) -> list[Timing]:
    """What each arm of the ablation adds to QHNet: low-rank W, and for the last arm projected W."""
    models = {}
    forms = [(arm, arm, "low_rank") for arm in SWITCHES]
    for name, arm, w in [*forms, ("tracegrad, projected W", "tracegrad", "projected")]:
        trace, grad = SWITCHES[arm]
        make = partial(TraceGrad, trace=trace, grad=grad, w=w, **sizes.tracegrad)  # type: ignore[arg-type]
        models[name] = HamiltonianModel(QHNet(basis, **sizes.network), make).to(device)
    return time_arms("QHNet", models, graph, repeats, device)


def closed_form(sizes: Sizes, items: int, basis: OrbitalBasis, repeats: int, device: str) -> list[Timing]:
    """v in closed form against v by automatic differentiation, for one block."""
    irreps = QHNet(basis, **sizes.network).feature_irreps["edge"][0]
    block = TraceGradBlock(irreps, width=len(basis.union) ** 2, **sizes.tracegrad).to(device)
    feature = [torch.randn(ir.dim, items, mul, device=device, requires_grad=True) for mul, ir in irreps]

    def by_autograd(*, differentiable: bool) -> tuple[torch.Tensor, Feature]:
        z = block.s_nonlin(block.invariants(feature)[0])
        return z, list(torch.autograd.grad(z.sum(), feature, create_graph=differentiable))

    def in_closed_form() -> None:
        with torch.inference_mode():
            block(feature)

    def backward(way: Callable[[], tuple[torch.Tensor, Feature]]) -> None:
        z, v = way()
        block.zero_grad()
        torch.autograd.backward([z.sum(), *(part.square().sum() for part in v)])

    ways: dict[str, Callable[[], object]] = {
        "autograd": partial(by_autograd, differentiable=False),
        "closed form": in_closed_form,
    }
    timings = measure(f"v forward, {items} edges", ways, repeats, device)
    ways = {
        "autograd": partial(backward, partial(by_autograd, differentiable=True)),
        "closed form": partial(backward, partial(block, feature)),
    }
    return timings + measure(f"v forward and backward, {items} edges", ways, repeats, device)


def data_path(sizes: Sizes, rng: np.random.Generator, atoms: int, basis: OrbitalBasis, repeats: int):
    """From rows of a SQLite file to graphs and batches, in one process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stable.db"
        with sqlite3.connect(path) as connection:
            connection.execute(
                "CREATE TABLE data (id INTEGER PRIMARY KEY, N INTEGER, Z BLOB, pos BLOB, Ham BLOB)"
            )
            for row in range(sizes.rows):
                numbers, positions = random_molecule(rng, atoms)
                blobs = (numbers.astype("<i4"), positions, random_matrix(rng, numbers, basis))
                values = (row, atoms, *(blob.tobytes() for blob in blobs))
                connection.execute("INSERT INTO data VALUES (?, ?, ?, ?, ?)", values)
        connection.close()
        database = QH9Database(path)

        def read() -> list[HamiltonianGraph]:
            samples = (database[row] for row in range(len(database)))
            return [
                molecule_graph(s.numbers, s.positions, basis, hamiltonian=s.hamiltonian, sample_id=s.row)
                for s in samples
            ]

        graphs = read()

        def batches() -> None:
            for start in range(0, len(graphs), sizes.batch):
                collate(graphs[start : start + sizes.batch])

        timings = measure(f"SQLite to graph, {len(graphs)} rows", {"one process": read}, repeats, "cpu")
        task = f"collation in batches of {sizes.batch}, {len(graphs)} rows"
        timings += measure(task, {"one process": batches}, repeats, "cpu")
    rates = [f"{len(graphs) / t.median:,.0f} molecules of {atoms} atoms a second: {t.task}" for t in timings]
    return timings, rates


def molecule_tasks(
    sizes: Sizes, rng: np.random.Generator, molecules: int, atoms: int, repeats: int, device: str
) -> tuple[list[Timing], list[str]]:
    """All tasks of molecules, and what to say about them."""
    basis = OrbitalBasis.def2_svp()
    graph = collate(random_graphs(rng, molecules, atoms, basis)).to(device)
    timings, note = against_e3nn(sizes, graph, basis, repeats, device)
    timings += cost_of_arms(sizes, graph, basis, repeats, device)
    timings += closed_form(sizes, graph.num_edges, basis, max(repeats, 5), device)
    data, rates = data_path(sizes, rng, atoms, basis, repeats)
    return timings + data, [f"molecules: {molecules} of {atoms} atoms, {graph.num_edges} pairs", note, *rates]
