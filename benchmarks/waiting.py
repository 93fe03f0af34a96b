"""Task "waiting": the share of a training that is spent waiting for batches.

The loaders are those of a training, with the batches of the recipes and two workers. The step is that of the backbone
without TraceGrad, which gives the workers the least time; with TraceGrad the share is smaller. On a CPU the workers
compete with the step for cores, as in a training.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.crystals import GRAPHENE, CrystalSizes, crystal_of
from benchmarks.data import write_crystals, write_molecules
from benchmarks.molecules import Sizes
from benchmarks.timing import Timing, synchronize
from tracegrad.data.loading.datamodule import QH9DataModule
from tracegrad.data.loading.deeph_module import DeepHDataModule
from tracegrad.data.loading.hamiltonian_module import HamiltonianDataModule
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.model.network import HamiltonianModel
from tracegrad.training.loss import HamiltonianLoss

WORKERS = 2
AT_LEAST = 3  # steps to time, however long they take
SECONDS = 15.0  # after which no further step is timed
STRUCTURES = 14


@dataclass
class Steps:
    """Seconds of each step: of waiting until its batch is on the device, and of the work on it."""

    wait: list[float] = field(default_factory=list)
    work: list[float] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Share of the time that was spent waiting."""
        return sum(self.wait) / (sum(self.wait) + sum(self.work))


def take_steps(data: HamiltonianDataModule, step: Callable[[object], None], device: str) -> Steps:
    """Time steps of one epoch, except the first one, which starts the workers."""
    steps = Steps()
    started = time.perf_counter()
    for graph in data.train_dataloader():
        on_device = graph.to(device)
        synchronize(device)
        there = time.perf_counter()
        step(on_device)
        synchronize(device)
        ended = time.perf_counter()
        steps.wait.append(there - started)
        steps.work.append(ended - there)
        started = ended
        if len(steps.wait) > AT_LEAST and sum(steps.wait[1:] + steps.work[1:]) > SECONDS:
            break
    return Steps(steps.wait[1:], steps.work[1:])


def trained(model: HamiltonianModel) -> Callable[[object], None]:
    """A training step of the model on a batch."""
    loss = HamiltonianLoss(model.basis, model.trace_labels)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step(graph) -> None:
        optimizer.zero_grad()
        loss(model(graph), graph).total.backward()
        optimizer.step()

    return step


def report(
    name: str, data: HamiltonianDataModule, model: HamiltonianModel, device: str
) -> tuple[list[Timing], str]:
    """Time waiting and work of a training; one batch is also built in this process, and its time is in the note."""
    data.prepare_data()
    data.setup("fit")
    dataset = data.parts["train"]
    start = time.perf_counter()
    data.train_dataloader().collate_fn([dataset[i] for i in range(data.batch_size)])  # type: ignore[misc]
    batch_seconds = time.perf_counter() - start
    steps = take_steps(data, trained(model.to(device)), device)
    task = f"{name} from data to device, batch {data.batch_size}, {data.num_workers} workers"
    parts = {"work on a batch": steps.work, "wait for a batch": steps.wait}
    first = median(steps.work)
    timings = [Timing(task, way, median(t), min(t), max(t), median(t) / first) for way, t in parts.items()]
    note = (
        f"{name}: {steps.share:.2%} of the time of {len(steps.work)} steps was spent waiting for data; one process "
        f"builds a batch in {batch_seconds:.3f} s"
    )
    return timings, note


def waiting_tasks(
    sizes: Sizes, crystal_sizes: CrystalSizes, rng: np.random.Generator, atoms: int, device: str
) -> tuple[list[Timing], list[str]]:
    """Timings and notes for QHNet and DeepH-E3, trained on temporary databases."""
    loaders: dict[str, Any] = {"num_workers": WORKERS, "pin_memory": device.startswith("cuda")}
    basis = OrbitalBasis.def2_svp()
    with tempfile.TemporaryDirectory() as name:
        database = Path(name) / "stable.db"
        write_molecules(database, rng, sizes.rows, atoms, basis)
        molecules = QH9DataModule(
            str(database),
            basis,
            split="random",
            fractions=[0.9, 0.05, 0.05],
            batch_size=sizes.batch,
            **loaders,
        )
        timings, molecule_note = report(
            "QHNet", molecules, sizes.model(basis, trace=False, grad=False), device
        )
        folder = Path(name) / "structures"
        graphs = [crystal_of(GRAPHENE, crystal_sizes, rng) for _ in range(STRUCTURES)]
        write_crystals(folder, graphs, crystal_sizes.basis)
        crystals = DeepHDataModule(
            str(folder),
            crystal_sizes.basis,
            sizes=[STRUCTURES - 2, 1, 1],
            cache=str(Path(name) / "graphs.cache"),
            batch_size=1,
            **loaders,
        )
        model = crystal_sizes.model(trace=False, grad=False)
        crystal_timings, crystal_note = report("DeepH-E3", crystals, model, device)
    return timings + crystal_timings, [molecule_note, crystal_note]
