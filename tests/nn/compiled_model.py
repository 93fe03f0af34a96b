"""Prints whether a compiled QHNet with TraceGrad has the gradients of the one that is not."""

from functools import partial

import torch

from tests import molecules
from tracegrad.backbones.qhnet import QHNet
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.graph import collate
from tracegrad.model.network import HamiltonianModel
from tracegrad.nn.invariant.tracegrad import TraceGrad
from tracegrad.training.loss import HamiltonianLoss

torch.set_num_threads(1)
torch.manual_seed(0)
basis = OrbitalBasis.def2_svp()
make = partial(TraceGrad, trace=True, grad=True, channels=5, hidden=6)
backbone = QHNet(basis, lmax=1, channels=3, bottleneck=2, layers=2, pair_layers=1, radial=4)
model, loss = HamiltonianModel(backbone, make).double(), HamiltonianLoss(basis)
graph = collate([molecules.labelled_graph(m, basis, dtype=torch.float64) for m in molecules.ALL[:2]])
compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
gradients = []
for module in (compiled, model):
    model.zero_grad()
    loss(module(graph), graph).total.backward()
    gradients.append([p.grad.clone() for p in model.parameters()])
for found, expected in zip(*gradients, strict=True):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10 * float(expected.abs().max()))
model.zero_grad()
torch.compile(lambda graph: loss(model(graph), graph).total, fullgraph=True, backend="aot_eager")(
    graph
).backward()
for p, expected in zip(model.parameters(), gradients[1], strict=True):
    torch.testing.assert_close(p.grad, expected, rtol=1e-9, atol=1e-10 * float(expected.abs().max()))
with torch.inference_mode():
    assert compiled(graph, traces=False).blocks["edge"].isfinite().all()
print("equal")
