"""The models compile into one graph, forward and backward, because the closed form needs no second derivative.

deeph2 and harmose are networks for both spins of collinear calculations.
"""

import pytest
import torch
from e3nn import o3

from tests import forked
from tracegrad.backbones.deeph_e3_convolution import EdgeChunk, EquiConv
from tracegrad.nn.invariant.tracegrad import TraceGradBlock
from tracegrad.nn.item_first.edge_frame import EdgeFrame

pytestmark = [pytest.mark.usefixtures("unchecked"), pytest.mark.slow]


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


@pytest.mark.parametrize("network", ["qhnet", "deeph_e3_molecules", "deeph_e3_spinful", "deeph2", "harmose"])
def test_the_whole_model_compiles_into_one_graph(network):
    """In a process of its own: torch.compile cannot look through the type checks of the tests."""
    done = forked.run("tests.nn.compiled_model", network)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "equal"


def test_a_convolution_of_deeph_e3_compiles_into_one_graph():
    """Also with another number of edges, and of on-site edges among them."""
    irreps = o3.Irreps("3x0e+2x1o+1x2e")
    convolution = EquiConv(irreps, irreps, irreps, 2, 4, legacy=False, at_nodes=True).double()
    compiled = torch.compile(convolution, fullgraph=True, backend="aot_eager", dynamic=True)
    for edges, every in ((7, 3), (11, 20)):
        frame = EdgeFrame(torch.randn(edges, 3, dtype=torch.float64))
        for _, ir in irreps:
            frame.rotation(ir.l, ir.p)
        ends = tuple(torch.randint(5, (2, edges)))
        on_site = (torch.arange(edges) % every == 1).long()
        radial = torch.randn(edges, 4, dtype=torch.float64)
        kind = torch.zeros(edges, dtype=torch.long)
        chunk = EdgeChunk(slice(None), on_site, frame, ends, radial, kind)
        node, edge = (
            [torch.randn(n, ir.dim, mul, dtype=torch.float64, requires_grad=True) for mul, ir in irreps]
            for n in (5, edges)
        )
        gradients = []
        for module in (compiled, convolution):
            loss = sum(x.square().sum() for x in module(node, edge, chunk))
            gradients.append(torch.autograd.grad(loss, [*node, *edge, *convolution.parameters()]))
        for a, b in zip(*gradients, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-10)
