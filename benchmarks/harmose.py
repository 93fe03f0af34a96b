"""Task "harmose": both stages of a HarmoSE-style network on a monolayer of MoS2 against the first one alone."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from benchmarks.arms import loss_of
from benchmarks.compare import compare
from benchmarks.crystals import CrystalSizes, crystal_of
from benchmarks.timing import Timing, forward, training_step
from tracegrad.backbones.harmose import HarmoSE
from tracegrad.hamiltonian.graph import collate
from tracegrad.model.network import HamiltonianModel
from tracegrad.nn.invariant.tracegrad import TraceGrad
from tracegrad.physics.crystals.layers import CRYSTALS

RECIPE = {"channels": 1024, "hidden": 1024}
# Stage, and whether TraceGrad is there.
WAYS = {
    "first stage": ("first", False),
    "both stages": ("joint", False),
    "second stage on a first that is not trained": ("second", False),
    "first stage + TraceGrad": ("first", True),
    "both stages + TraceGrad": ("joint", True),
}


@dataclass(frozen=True)
class HarmoseSizes:
    """Sizes of the first stage with its cell, and of the second stage; the defaults are those of the recipe."""

    first: CrystalSizes
    layers: int = 4
    width: int = 256
    heads: int = 4

    def model(self, stage: str, *, tracegrad: bool) -> HamiltonianModel:
        """The network of a recipe in one of its stages."""
        backbone = HarmoSE(
            self.first.basis,
            self.first.irreps,
            self.first.embed,
            self.first.blocks,
            stage=stage,
            layers=self.layers,
            width=self.width,
            heads=self.heads,
        )
        make = partial(TraceGrad, trace=tracegrad, grad=tracegrad, w="full", **self.first.tracegrad)
        return HamiltonianModel(backbone, make)


_IRREPS = "64x0e+32x1o+16x2e+8x3o+8x4e"
FULL = HarmoseSizes(CrystalSizes(_IRREPS, 64, 3, ("Mo7.0-s3p2d2", "S7.0-s2p2d1"), RECIPE, 5))
SMALL = HarmoseSizes(
    CrystalSizes("4x0e+2x1o+2x2e", 4, 2, ("Mo3.0-s1p1", "S3.0-s1"), {"channels": 8, "hidden": 8}, 1), 2, 8, 2
)


def harmose_tasks(
    sizes: HarmoseSizes, rng: np.random.Generator, repeats: int, device: str
) -> tuple[list[Timing], list[str]]:
    """Forward pass and training step of each stage."""
    graph: Any = collate([crystal_of(CRYSTALS["MM"], sizes.first, rng)]).to(device)
    forwards: dict[str, Callable[[], object]] = {}
    steps: dict[str, Callable[[], object]] = {}
    notes = [f"HarmoSE-style: {graph.num_nodes} atoms, {graph.num_edges} edges"]
    for way, (stage, tracegrad) in WAYS.items():
        model = sizes.model(stage, tracegrad=tracegrad).to(device)
        parameters = sum(p.numel() for p in model.parameters())
        notes.append(f"{way}: {parameters / 1e6:.2f} million parameters")
        steps[way] = training_step(model, loss_of(model.basis, graph, model), graph)
        if stage != "second":  # its forward pass is that of both stages
            forwards[way] = partial(forward, partial(model, traces=False), graph)
    timings = compare("HarmoSE-style forward", forwards, repeats, device)
    return timings + compare("HarmoSE-style training step", steps, repeats, device), notes
