"""Time and memory of a training step, measured with a few of them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from experiments.training.trial import device_memory
from tracegrad.hamiltonian.graph import HamiltonianGraph, collate
from tracegrad.system.device import device_name

_MOST_OF_MEMORY = 0.8  # share of the memory that a step may be expected to need if it is tried
_STEPS = 2  # with each batch; the last one is timed


@dataclass(frozen=True)
class StepCost:
    """Cost of a training step.

    Args:
        seconds: of the step.
        bytes: largest memory; on CPUs that of the whole process.
        tried: False: extrapolated from smaller batches by the number of pairs of atoms.
        parameters: of the network.
        device: its name.
    """

    seconds: float
    bytes: float
    tried: bool
    parameters: int
    device: str


@dataclass(frozen=True)
class _Measured:
    """A step with a batch of some pairs of atoms."""

    pairs: int
    seconds: float
    bytes: float


def step_cost(config: DictConfig, batches: Sequence[list[HamiltonianGraph]], limit: float) -> StepCost:
    """The cost of a step with the last one of some batches of ascending size.

    Args:
        config: settings of a training.
        batches: at least one; the first two are tried in any case, each other one if it is expected to fit.
        limit: seconds that the steps with a batch may take.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    model = instantiate(config.model).to(device)
    loss = instantiate(config.loss)(model.basis, model.trace_labels).to(device)
    optimizer = instantiate(config.optim.optimizer, _convert_="all")(model.parameters(), lr=1e-6)
    parameters = sum(parameter.numel() for parameter in model.parameters())

    def step(graphs: list[HamiltonianGraph]) -> float:
        started = time.perf_counter()
        batch = collate(graphs).to(device)
        optimizer.zero_grad(set_to_none=True)
        loss(model(batch), batch).total.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    measured: list[_Measured] = []
    for graphs in batches:
        pairs = _pairs(graphs)
        # Weights and the state of the optimizer take memory of their own: two batches tell what pairs of atoms take.
        if len(measured) > 1:
            expected = _expected(measured, pairs)
            too_large = expected.bytes > _MOST_OF_MEMORY * device_memory(device)["memory_bytes"]
            fits = _STEPS * expected.seconds <= limit and not too_large
        else:
            fits = True
        if not fits:
            expected = _expected(measured, _pairs(batches[-1]))
            return StepCost(expected.seconds, expected.bytes, False, parameters, device_name(device))
        seconds = [step(graphs) for _ in range(_STEPS)][-1]  # the first step compiles kernels
        measured.append(_Measured(pairs, seconds, device_memory(device)["peak_bytes"]))
    return StepCost(measured[-1].seconds, measured[-1].bytes, True, parameters, device_name(device))


def _pairs(graphs: Sequence[HamiltonianGraph]) -> int:
    """Number of blocks of H, also those of the atoms of molecules."""
    return sum(graph.edge_index.shape[1] + len(graph.numbers) for graph in graphs)


def _expected(measured: Sequence[_Measured], pairs: int) -> _Measured:
    """The straight line through the last two measurements, never below the last one."""
    before, last = measured[-2:]
    share = max(pairs - last.pairs, 0) / max(last.pairs - before.pairs, 1)
    seconds = last.seconds + share * max(last.seconds - before.seconds, 0.0)
    return _Measured(pairs, seconds, last.bytes + share * max(last.bytes - before.bytes, 0.0))
