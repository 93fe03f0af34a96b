"""Prints whether a compiled network computes what it does otherwise: `python -m tests.nn.compiled_model NETWORK`."""

import sys
from typing import Any

import torch
from torch import Tensor

from tests.on_second_device import graphs, small
from tracegrad.hamiltonian.graph import collate
from tracegrad.model.network import HamiltonianModel
from tracegrad.training.loss import HamiltonianLoss

# Smaller, because compiling takes minutes otherwise; the others show that two blocks are one graph.
SIZES = {
    "deeph_e3_molecules": {"blocks": 1},
    "deeph2": {"blocks": 1},
    "harmose": {"blocks": 1, "layers": 1},
}
# Its gradients and predictions are traced, too, which takes two to three times as long; the others consist of the
# same operators, and tests/ops traces the gradients of each.
WHOLE = "deeph_e3_molecules"


def gradients(model: HamiltonianModel, network: Any, graph: Any) -> list[Tensor | None]:
    """Of all parameters of ``model``, by ``network``: the model or its compiled form."""
    model.zero_grad()
    loss = HamiltonianLoss(model.basis, model.trace_labels)
    loss(network(graph), graph).total.backward()
    return [None if p.grad is None else p.grad.clone() for p in model.parameters()]


def check(network: str) -> None:
    """One graph for training, also of another number of atoms and edges, and one for predictions."""
    model, batch = small(network, "tracegrad", **SIZES.get(network, {}))
    # Four atoms: torch takes numbers that agree for the same, and five is a number of channels of these networks.
    other = collate(graphs(model.basis, periodic=model.basis.periodic)[:2])
    backend = "aot_eager" if network == WHOLE else "eager"
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=backend)
    gradients(model, compiled, other)
    torch.compiler.set_stance("fail_on_recompile")
    for graph in (other, batch):
        for found, expected in zip(
            gradients(model, compiled, graph), gradients(model, model, graph), strict=True
        ):
            if expected is not None:
                scale = float(expected.abs().max())
                torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10 * scale)
    if network != WHOLE:
        return
    torch.compiler.set_stance("default")
    with torch.inference_mode():
        found, expected = (module(batch, traces=False).blocks["edge"] for module in (compiled, model))
    torch.testing.assert_close(found.nan_to_num(), expected.nan_to_num(), rtol=1e-9, atol=1e-10)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    check(sys.argv[1])
    print("equal")
