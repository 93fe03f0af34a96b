"""Task "launches": what a training step would launch on a GPU, counted on a device that stands in for one.

An operator of this project is one launch here; its kernel for a GPU launches one to three. Bytes are what launches
read and write, without what an operator keeps to itself.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import crystals, molecules
from benchmarks.arms import loss_of
from benchmarks.timing import Timing
from tests import second_device
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.graph import collate
from tracegrad.model.network import HamiltonianModel
from tracegrad.reports.arms import ARMS

ROOT = Path(__file__).parents[1]


def launch_tasks(count: int, atoms: int, *, small: bool) -> tuple[list[Timing], list[str]]:
    """A note for each network, and for each without TraceGrad; no timings.

    They are counted in a process of its own, because the device is one of the whole process.

    Args:
        count, atoms: number of molecules, and atoms of each.
        small: tiny networks.
    """
    command = [sys.executable, "-m", "benchmarks.launches", str(count), str(atoms), str(int(small))]
    result = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return [], result.stdout.splitlines()


def note(name: str, model: HamiltonianModel, graph: Any) -> str:
    """Counts of forward pass, loss and backward pass."""
    model, graph = model.to(second_device.DEVICE), graph.clone().to(second_device.DEVICE)
    loss = loss_of(model.basis, graph, model)
    loss(model(graph))  # tables are moved to a device once
    with second_device.counting() as counts:
        total = loss(model(graph))
        forward = counts.launches
        total.backward()
    return (
        f"{name}: {counts.launches:,} launches ({forward:,} before the backward pass), {counts.waits.total()} waits, "
        f"{counts.transfers.total()} transfers, {counts.bytes / 1e9:.2f} GB"
    )


def main(count: int, atoms: int, small: bool) -> None:
    """Print the notes."""
    second_device.start()
    rng, basis = np.random.default_rng(0), OrbitalBasis.def2_svp()
    sizes = molecules.SMALL if small else molecules.FULL
    of_crystal = crystals.SMALL if small else crystals.FULL
    batch = collate(molecules.random_graphs(rng, count, atoms, basis))
    cell = collate([crystals.crystal_of(crystals.GRAPHENE, of_crystal, rng)])
    for arm in ("none", "tracegrad"):
        trace, grad = ARMS[arm]
        torch.manual_seed(0)
        model = sizes.model(basis, trace=trace, grad=grad)
        print(note(f"QHNet, {arm}, {count} molecules of {atoms} atoms", model, batch))
        model = of_crystal.model(trace=trace, grad=grad)
        print(note(f"DeepH-E3, {arm}, {cell.num_nodes} atoms of graphene", model, cell), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]), int(sys.argv[2]), bool(int(sys.argv[3])))
