"""Losses and arms of the ablation, for the tasks of both backbones."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from benchmarks.compare import compare
from benchmarks.timing import Timing, forward, training_step
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.model.network import HamiltonianModel, HamiltonianPrediction
from tracegrad.training.loss import HamiltonianLoss


def loss_of(
    basis: OrbitalBasis, graph, model: HamiltonianModel | None = None
) -> Callable[[Any], torch.Tensor]:
    """The loss as a function of the prediction of a network: blocks, or a `HamiltonianPrediction`."""
    loss = HamiltonianLoss(basis, model.trace_labels if model is not None else None)
    return lambda output: (
        loss(
            output if isinstance(output, HamiltonianPrediction) else HamiltonianPrediction(output), graph
        ).total
    )


def time_arms(
    backbone: str, models: Mapping[str, HamiltonianModel], graph, repeats: int, device: str
) -> list[Timing]:
    """Time forward pass and training step of each arm of the ablation."""
    forwards = {arm: partial(forward, partial(model, traces=False), graph) for arm, model in models.items()}
    timings = compare(f"{backbone} arm forward, without traces", forwards, repeats, device)
    steps = {
        arm: training_step(model, loss_of(model.basis, graph, model), graph) for arm, model in models.items()
    }
    return timings + compare(f"{backbone} arm training step", steps, repeats, device)
