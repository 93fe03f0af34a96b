"""Task "deeph2": the DeepH-2-style network on graphene, without and with TraceGrad, against DeepH-E3."""

from functools import partial
from typing import Any

import numpy as np

from benchmarks.arms import loss_of
from benchmarks.compare import compare
from benchmarks.crystals import GRAPHENE, CrystalSizes, crystal_of
from benchmarks.timing import Timing, forward, training_step
from tracegrad.backbones.deeph2 import DeepH2
from tracegrad.hamiltonian.graph import collate
from tracegrad.model.network import HamiltonianModel
from tracegrad.nn.invariant.tracegrad import TraceGrad

SMALL: dict[str, Any] = {"irreps": "4x0e+2x1o+2x2e", "blocks": 2, "logits": 4, "embed": 4, "radial": 8}


def deeph2_tasks(
    sizes: CrystalSizes, rng: np.random.Generator, repeats: int, device: str, *, small: bool
) -> tuple[list[Timing], list[str]]:
    """Time forward pass and training step.

    Args:
        sizes: of the cell, of DeepH-E3 and of TraceGrad.
        rng: for the labels.
        repeats: number of timed rounds.
        device: where it runs.
        small: a tiny network instead of the default one.
    """
    graph = collate([crystal_of(GRAPHENE, sizes, rng)]).to(device)
    options = SMALL if small else {}
    tracegrad = partial(TraceGrad, trace=True, grad=True, w="full", **sizes.tracegrad)
    models = {
        "DeepH-E3": sizes.model(trace=False, grad=False),
        "DeepH-2-style": HamiltonianModel(DeepH2(sizes.basis, **options)),
        "DeepH-2-style + TraceGrad": HamiltonianModel(DeepH2(sizes.basis, **options), tracegrad),
    }
    for model in models.values():
        model.to(device)
    forwards = {name: partial(forward, partial(model, traces=False), graph) for name, model in models.items()}
    timings = compare("DeepH-2-style forward, without traces", forwards, repeats, device)
    steps = {
        name: training_step(model, loss_of(model.basis, graph, model), graph)
        for name, model in models.items()
    }
    timings += compare("DeepH-2-style training step", steps, repeats, device)
    counts = ", ".join(
        f"{name} {sum(p.numel() for p in model.backbone.parameters()):,}" for name, model in models.items()
    )
    return timings, [f"parameters of the backbones: {counts}"]
