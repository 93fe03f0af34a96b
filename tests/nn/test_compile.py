"""The models compile into one graph, forward and backward, because the closed form needs no second derivative."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from e3nn import o3

from tracegrad.nn.invariant.tracegrad import TraceGradBlock

pytestmark = [pytest.mark.usefixtures("unchecked"), pytest.mark.slow]

ROOT = Path(__file__).parents[2]
WHOLE_MODEL = """
from functools import partial
import torch
from tests import molecules
from tracegrad.backbones.qhnet import QHNet
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.graph import collate
from tracegrad.training.loss import HamiltonianLoss
from tracegrad.model.network import HamiltonianModel
from tracegrad.nn.invariant.tracegrad import TraceGrad

torch.set_num_threads(1)
basis = OrbitalBasis.def2_svp()
make = partial(TraceGrad, trace=True, grad=True, channels=5, hidden=6)
backbone = QHNet(basis, lmax=1, channels=3, bottleneck=2, layers=2, pair_layers=1, radial=4)
model, loss = HamiltonianModel(backbone, make), HamiltonianLoss(basis)
graph = collate([molecules.labelled_graph(m, basis, dtype=torch.float32) for m in molecules.ALL[:2]])
compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
gradients = []
for module in (compiled, model):
    model.zero_grad()
    loss(module(graph), graph).total.backward()
    gradients.append([p.grad.clone() for p in model.parameters()])
for found, expected in zip(*gradients, strict=True):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
with torch.inference_mode():
    assert compiled(graph, traces=False).blocks["edge"].isfinite().all()
print("equal")
"""


@pytest.fixture(autouse=True)
def _fresh():
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("w", ["full", "low_rank"])
def test_a_block_compiles_into_one_graph(w):
    block = TraceGradBlock(o3.Irreps("3x0e+2x1e+2x2e"), 6, 5, w=w, hidden=7).double()
    feature = [
        torch.randn(d, 4, c, dtype=torch.float64, requires_grad=True) for d, c in ((1, 3), (3, 2), (5, 2))
    ]
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")

    def gradients(module):
        z, v = module(feature)
        loss = z.square().sum() + sum(part.square().sum() for part in v)
        return torch.autograd.grad(loss, [*feature, *block.parameters()])

    for a, b in zip(gradients(compiled), gradients(block), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_the_whole_model_compiles_into_one_graph():
    """In a process of its own: torch.compile cannot look through the type checks of the tests."""
    run = subprocess.run(
        [sys.executable, "-c", WHOLE_MODEL],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "equal"
