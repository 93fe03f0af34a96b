"""Run directories with the checkpoints of small untrained networks, as training would leave them."""

from pathlib import Path
from typing import Any

import torch

from tracegrad.model.network import HamiltonianModel
from tracegrad.weights.checkpoint import CHECKPOINT_KEY
from tracegrad.weights.construct import construct

QHNET: dict[str, Any] = {
    "_target_": "tracegrad.model.network.HamiltonianModel",
    "backbone": {
        "_target_": "tracegrad.backbones.qhnet.QHNet",
        "basis": {
            "_target_": "tracegrad.hamiltonian.basis.OrbitalBasis.def2_svp",
            "elements": [1, 6, 7, 8, 9],
        },
        "lmax": 2,
        "channels": 4,
        "bottleneck": 3,
        "layers": 3,
        "pair_layers": 2,
        "radial": 5,
    },
    "tracegrad": {
        "_target_": "tracegrad.nn.invariant.tracegrad.TraceGrad",
        "_partial_": True,
        "trace": True,
        "grad": True,
        "channels": 12,
        "hidden": 10,
    },
}
DEEPH_E3: dict[str, Any] = {
    "_target_": "tracegrad.model.network.HamiltonianModel",
    "backbone": {
        "_target_": "tracegrad.backbones.deeph_e3.DeepHE3",
        "basis": {"_target_": "tracegrad.hamiltonian.basis.OrbitalBasis.openmx", "shells": ["C6.0-s2p2d1"]},
        "irreps": "4x0e+2x1o+2x2e",
        "embed": 4,
        "blocks": 1,
        "lmax": 2,
        "cutoff": 7.2,
        "radial": 4,
    },
}


def write_checkpoint(path: Path, settings: Any, state: dict[str, torch.Tensor], **content: Any) -> Path:
    """A file with the given settings and the tensors of a network."""
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"format": 1, "config": {"name": "test", "model": settings}, "data": {}}
    tensors = {f"model.{name}": value for name, value in state.items()}
    torch.save({"state_dict": tensors, CHECKPOINT_KEY: record, **content}, path)
    return path


def write_run(directory: Path, settings: dict[str, Any] = QHNET, seed: int = 0) -> HamiltonianModel:
    """A run directory with best.ckpt, in float64, and the network in it."""
    torch.manual_seed(seed)
    model = construct(settings, "settings").double().eval()
    write_checkpoint(directory / "checkpoints" / "best.ckpt", settings, model.state_dict())
    return model
