"""What a run does, on the second device and on the CPU: `python -m tests.on_second_device NETWORK ARM`.

Prints for each part its launches, waits and transfers, as JSON. An operation on tensors of both devices raises an
error, and so do numbers that are not those of the CPU.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from tests import crystals, molecules, second_device
from tracegrad.backbones.deeph2 import DeepH2
from tracegrad.backbones.deeph_e3 import DeepHE3
from tracegrad.backbones.harmose import HarmoSE
from tracegrad.backbones.qhnet import QHNet
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.graph import collate
from tracegrad.metrics.hamiltonian import HamiltonianMAE
from tracegrad.metrics.orbitals import MeanOrbitalErrors, orbital_errors
from tracegrad.model.network import HamiltonianModel
from tracegrad.nn.invariant.tracegrad import TraceGrad
from tracegrad.physics.molecules.solved import SolvedMolecule
from tracegrad.training.loss import HamiltonianLoss
from tracegrad.training.mean_losses import SampleMeans

QHNET = {"lmax": 2, "channels": 4, "bottleneck": 3, "layers": 3, "pair_layers": 2, "radial": 5}
DEEPH_E3 = {"irreps": "6x0e+4x1o+3x2e+2x3o", "embed": 5, "blocks": 2, "lmax": 3, "radial": 7}
DEEPH2 = {"irreps": "6x0e+4x1o+4x2e+2x3o+2x4e+2x5o", "blocks": 2, "logits": 3, "embed": 6, "radial": 7}
NETWORKS: dict[str, Callable[[], Any]] = {
    "qhnet": partial(QHNet, OrbitalBasis.def2_svp(), **QHNET),
    "deeph_e3": partial(DeepHE3, crystals.SPINLESS, **DEEPH_E3),
    "deeph_e3_molecules": partial(DeepHE3, OrbitalBasis.def2_svp(), **DEEPH_E3),
    "deeph2": partial(DeepH2, crystals.COLLINEAR, **DEEPH2),
    "harmose": partial(
        HarmoSE, crystals.COLLINEAR, **DEEPH_E3, layers=2, width=8, heads=2, augmentation="none"
    ),
    "deeph_e3_spinful": partial(DeepHE3, crystals.SPINFUL, **DEEPH_E3, hermitian=True, time_reversal=True),
}
ARMS = {"none": (False, False), "trace": (True, False), "grad": (False, True), "tracegrad": (True, True)}
TOLERANCE = 1e-10  # relative; on the second device some sums have another order


def graphs(basis: OrbitalBasis, *, periodic: bool) -> list[Any]:
    """Small labelled graphs: several elements, a single atom, a crystal of one atom."""
    if periodic:
        return [crystals.labelled_graph(sample, basis, seed=k) for k, sample in enumerate(crystals.ALL[:3])]
    samples = (molecules.WATER, molecules.CYANIDE, molecules.ATOM)
    return [molecules.labelled_graph(sample, basis, seed=k) for k, sample in enumerate(samples)]


def small(network: str, arm: str, **sizes: int) -> tuple[HamiltonianModel, Any]:
    """A small network in double precision, of other sizes where they are given, and a batch for it."""
    trace, grad = ARMS[arm]
    w = "low_rank" if network == "qhnet" else "full"
    make = partial(TraceGrad, trace=trace, grad=grad, w=w, channels=8, hidden=8)
    model = HamiltonianModel(NETWORKS[network](**sizes), make).double()
    return model, collate(graphs(model.basis, periodic=model.basis.periodic))


def step(model: HamiltonianModel, graph: Any) -> dict[str, Tensor]:
    """Forward pass, loss and backward pass of a training step."""
    model.zero_grad()
    terms = HamiltonianLoss(model.basis, model.trace_labels)(model(graph), graph)
    terms.total.backward()
    gradients = {name: x.grad for name, x in model.named_parameters() if x.grad is not None}
    return {"loss": terms.total.detach(), **terms.logs, **gradients}


def optimized(model: HamiltonianModel, graph: Any) -> dict[str, Tensor]:
    """A step of the optimizer of the recipes; the weights are as before afterwards."""
    before = {name: x.detach().clone() for name, x in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    step(model, graph)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    after = {name: x.detach().clone() for name, x in model.named_parameters()}
    with torch.no_grad():
        for name, x in model.named_parameters():
            x.copy_(before[name])
    model.zero_grad()
    return after


@torch.no_grad()
def validation(model: HamiltonianModel, graph: Any) -> dict[str, Tensor]:
    """Prediction, losses and all metrics of a validation."""
    device, prediction = graph.numbers.device, model(graph)
    loss = HamiltonianLoss(model.basis, model.trace_labels)
    losses = SampleMeans(loss.active(traces=bool(prediction.traces))).to(device)
    losses.update(loss(prediction, graph).per_sample)
    metric = HamiltonianMAE(model.basis).to(device)
    metric.update(prediction, graph)
    found = {**losses.compute(), **metric.compute()}
    if not model.basis.periodic:
        # The levels of a single atom are degenerate, and their orbitals not determined.
        samples = [sample for sample in graph.clone().cpu().to_data_list() if sample.num_nodes > 1]
        references = [solved(sample, model.basis, k) for k, sample in enumerate(samples)]
        several = collate(samples).to(device)
        orbitals = MeanOrbitalErrors().to(device)
        orbitals.update(orbital_errors(model(several), several, model.basis, references.__getitem__))
        found |= orbitals.compute()
    return found


def solved(graph: Any, basis: OrbitalBasis, seed: int) -> SolvedMolecule:
    """A solved reference for the random labels of a molecule, in an orthonormal basis."""
    numbers = graph.numbers.numpy()
    h = molecules.random_hamiltonian(numbers, basis, seed)
    energies, orbitals = scipy.linalg.eigh(h)
    lower = np.tril_indices(len(h))
    return SolvedMolecule(
        max(1, int(numbers.sum()) // 2), energies, orbitals, np.eye(len(h))[lower], h[lower]
    )


def hamiltonian(model: HamiltonianModel, graph: Any) -> dict[str, Tensor]:
    """H of one sample as users get it."""
    if not model.basis.periodic:
        return {"h": model.hamiltonian(*molecules.METHANOL)}
    blocks = model.hamiltonian(*crystals.MOS2, spin="down" if model.basis.collinear else None)
    return {"h": torch.cat([torch.from_numpy(block).flatten() for block in blocks])}


def chunked(model: HamiltonianModel, graph: Any) -> dict[str, Tensor]:
    """Prediction with edges in chunks."""
    model.backbone.edge_chunk = 5
    with torch.inference_mode():
        found = model(graph).blocks
    model.backbone.edge_chunk = None
    return {site: blocks.clone() for site, blocks in found.items()}


def density(model: HamiltonianModel, graph: Any) -> dict[str, Tensor]:
    """The start density of an SCF calculation."""
    from pyscf import gto

    numbers, positions = molecules.WATER
    atoms = [(int(z), x.tolist()) for z, x in zip(numbers, positions, strict=True)]
    mol = gto.M(atom=atoms, basis="def2-svp", verbose=0)
    return {"density": torch.from_numpy(model.initial_density(mol))}


def parts(model: HamiltonianModel) -> dict[str, Callable[[HamiltonianModel, Any], dict[str, Tensor]]]:
    """What is run."""
    in_chunks = {"chunked": chunked} if model.backbone.periodic else {}
    of_molecules = {} if model.basis.periodic else {"density": density}
    return {
        "step": step,
        "optimized": optimized,
        "validation": validation,
        "hamiltonian": hamiltonian,
        **in_chunks,
        **of_molecules,
    }


def assert_same(name: str, found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """All numbers are those of the CPU, to rounding."""
    assert found.keys() == expected.keys(), name
    for key, x in expected.items():
        scale = x.nan_to_num().abs().max().item() if x.numel() else 0
        apart = (found[key].cpu() - x).abs().nan_to_num()
        assert torch.equal(found[key].cpu().isnan(), x.isnan()), (name, key)
        assert (apart <= TOLERANCE * max(scale, 1e-3)).all(), (name, key, float(apart.max()), scale)


def main(network: str, arm: str) -> None:
    """Run all parts of one network and arm on both devices."""
    second_device.start()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, graph = small(network, arm)
    expected = {name: part(model, graph) for name, part in parts(model).items()}
    expected = {name: {key: x.clone() for key, x in values.items()} for name, values in expected.items()}
    model, graph = model.to(second_device.DEVICE), graph.to(second_device.DEVICE)
    found = {}
    for name, part in parts(model).items():
        part(model, graph)  # tables are moved to a device once
        with second_device.counting() as counts:
            values = part(model, graph)
        assert_same(name, values, expected[name])
        found[name] = {key: getattr(counts, key) for key in ("launches", "waits", "transfers")}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
