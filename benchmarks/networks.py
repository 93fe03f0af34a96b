"""Time a backbone without and with TraceGrad against its plain e3nn form without TraceGrad."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from benchmarks.arms import loss_of
from benchmarks.compare import compare
from benchmarks.timing import Timing, forward, training_step
from tracegrad.hamiltonian.graph import HamiltonianGraph
from tracegrad.model.network import HamiltonianModel
from tracegrad.ops import native

PLAIN, BACKBONE, TRACEGRAD = "plain e3nn", "backbone", "backbone + TraceGrad"
WITHOUT_KERNELS = "without kernels"


@dataclass(frozen=True)
class Rivals:
    """The networks that are compared.

    Args:
        name: of the backbone.
        plain: its plain e3nn form with the same weights, which takes a graph.
        plain_loss: returns, for a graph, the loss as a function of the output of ``plain``.
        tracegrad: the backbone with the TraceGrad of the recipe.
    """

    name: str
    plain: torch.nn.Module
    plain_loss: Callable[[HamiltonianGraph], Callable[[Any], torch.Tensor]]
    tracegrad: HamiltonianModel


def time_networks(
    rivals: Rivals, forward_graph, step_graph, repeats: int, device: str
) -> tuple[list[Timing], list[str]]:
    """Time the forward pass of one graph and the training step on another.

    On a GPU also in lower precision, and the operators in their plain form.

    Notes state the errors of lower precision.
    """
    backbone, model = rivals.tracegrad.backbone, rivals.tracegrad
    calls: dict[str, Callable[[], object]] = {
        PLAIN: partial(forward, rivals.plain, forward_graph),
        BACKBONE: partial(forward, backbone, forward_graph),
        TRACEGRAD: partial(forward, partial(model, traces=False), forward_graph),
    }
    calls |= without_kernels(calls, device)
    timings = compare(f"{rivals.name} forward", calls | lowered(calls, device), repeats, device)
    notes = lower_precision_errors(model, forward_graph, device)
    makers: dict[str, Callable[..., Callable[[], None]]] = {
        PLAIN: partial(training_step, rivals.plain, rivals.plain_loss(step_graph), step_graph),
        BACKBONE: partial(training_step, backbone, loss_of(model.basis, step_graph), step_graph),
        TRACEGRAD: partial(training_step, model, loss_of(model.basis, step_graph, model), step_graph),
    }
    steps: dict[str, Callable[[], object]] = {way: make() for way, make in makers.items()}
    steps |= without_kernels(steps, device)
    timings += compare(
        f"{rivals.name} training step", steps | lowered(steps, device, makers), repeats, device
    )
    return timings, [f"{rivals.name}, {note}" for note in notes]


def without_kernels(
    calls: Mapping[str, Callable[[], object]], device: str
) -> dict[str, Callable[[], object]]:
    """The calls of the backbone with all operators in their plain form, on a GPU."""
    if not device.startswith("cuda"):
        return {}
    return {
        f"{way}, {WITHOUT_KERNELS}": partial(_inside, kernels_off, calls[way])
        for way in (BACKBONE, TRACEGRAD)
    }


@contextmanager
def kernels_off() -> Iterator[None]:
    """A block in which operators run their plain forms."""
    before = os.environ.get(native.SWITCH)
    os.environ[native.SWITCH] = "0"
    try:
        yield
    finally:
        os.environ.pop(native.SWITCH)
        if before is not None:
            os.environ[native.SWITCH] = before


def lowered(
    calls: Mapping[str, Callable[[], object]],
    device: str,
    makers: Mapping[str, Callable[..., Callable[[], None]]] | None = None,
) -> dict[str, Callable[[], object]]:
    """The calls with and without TraceGrad in each lower precision of a GPU; none on a CPU.

    In a training step autocast covers only the forward pass, as in a training; ``makers`` create such steps.
    """
    result: dict[str, Callable[[], object]] = {}
    for name, context in lower_precisions(device).items():
        for way in (BACKBONE, TRACEGRAD):
            call: Callable[[], object] = partial(_inside, context, calls[way])
            if makers is not None and context is not tf32:
                call = makers[way](precision=context)
            result[f"{way}, {name}"] = call
    return result


def lower_precisions(device: str) -> dict[str, Callable[[], AbstractContextManager]]:
    """Names of lower precisions and the contexts that switch them on."""
    if not device.startswith("cuda"):
        return {}
    return {"TF32": tf32, "bf16": partial(torch.autocast, "cuda", torch.bfloat16)}


@contextmanager
def tf32() -> Iterator[None]:
    """A block in which float32 matrix products use TF32, with 10 bits of mantissa."""
    previous = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(previous)


@torch.inference_mode()
def lower_precision_errors(model: HamiltonianModel, graph, device: str) -> list[str]:
    """Root mean square error of the predicted H in each lower precision, relative to the root mean square of H."""
    expected = model(graph, traces=False).blocks["edge"]
    lines = []
    for name, context in lower_precisions(device).items():
        with context():
            output = model(graph, traces=False).blocks["edge"]
        error, size = (x.abs().square().mean().sqrt() for x in (output - expected, expected))
        lines.append(f"{name} with TraceGrad: relative error of H {float(error / size):.1e}")
    return lines


def _inside(context: Callable[[], AbstractContextManager], call: Callable[[], object]) -> None:
    with context():
        call()
