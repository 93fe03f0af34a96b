"""Logs of the LightningModule for the traces."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from experiments.training.warning_filter import quiet
from tests import crystals
from tests.callbacks.test_test_report import make_trainer
from tracegrad.hamiltonian.graph import collate
from tracegrad.model.network import HamiltonianModel
from tracegrad.nn.invariant.tracegrad import TraceGrad
from tracegrad.training.loss import HamiltonianLoss
from tracegrad.training.module import HamiltonianModule
from tracegrad.training.schedule import WarmupLinear

MEV2_PER_EV2 = 1e6


def make_module(basis=crystals.SPINLESS, *, trace=True, grad=True, **loss) -> HamiltonianModule:
    torch.manual_seed(0)
    tracegrad = partial(TraceGrad, trace=trace, grad=grad, channels=4, hidden=4)
    model = HamiltonianModel(crystals.SmallBackbone(basis), tracegrad).double()
    optimizer = partial(torch.optim.AdamW, weight_decay=0.01)
    return HamiltonianModule(
        model, partial(HamiltonianLoss, **loss), optimizer, WarmupLinear(1e-3, 1e-5, 2, 10)
    )


def samples(basis=crystals.SPINLESS) -> list:
    return [crystals.labelled_graph(c, basis, seed) for seed, c in enumerate(crystals.ALL)]


def loaders(graphs: list) -> list[DataLoader]:
    return [DataLoader(graphs, 3, collate_fn=collate), DataLoader(graphs[:1], 1, collate_fn=collate)]


def logs_of(module: HamiltonianModule, tmp_path, graphs: list) -> dict[str, float]:
    """Logs of a test with a subset."""
    module.test_subsets = ["", "twisted"]
    with quiet():
        logs = make_trainer(tmp_path, precision="64-true").test(module, loaders(graphs), verbose=False)
    return {key: value for entry in logs for key, value in entry.items()}


def literal_error(module: HamiltonianModule, graph) -> float:
    """Mean |T' - T| over the pairs of shells that exist, eV^2, from the dense blocks of one crystal."""
    basis = module.model.basis
    bounds = [*basis.shell_starts.tolist(), basis.dim]
    with torch.no_grad():
        predicted = module.model(collate([graph])).traces["edge"].numpy()
    errors = []
    for (i, j), block, row in zip(graph.edge_index.T.tolist(), graph.h_edge.numpy(), predicted, strict=True):
        present = [basis.shell_mask[int(graph.numbers[atom])] for atom in (i, j)]
        for p in np.flatnonzero(present[0]):
            for q in np.flatnonzero(present[1]):
                basic = block[bounds[p] : bounds[p + 1], bounds[q] : bounds[q + 1]]
                errors.append(abs(row[p * len(basis.union) + q] - np.trace(basic @ basic.conj().T).real))
    return float(np.mean(errors))


@pytest.mark.parametrize("loss", [{}, {"t": "mse"}, {"fixed_weights": [0.8, 0.2]}])
def test_the_mae_of_the_traces_is_the_mean_over_samples_in_squared_mev(tmp_path, loss):
    graphs, module = samples(), make_module(**loss)
    module.eval()
    errors = [literal_error(module, graph) for graph in graphs]
    logs = logs_of(module, tmp_path, graphs)
    assert logs["test/t_mae"] == pytest.approx(np.mean(errors) * MEV2_PER_EV2, rel=1e-10)
    assert logs["test/t_mae/twisted"] == pytest.approx(errors[0] * MEV2_PER_EV2, rel=1e-10)


@pytest.mark.parametrize("scaled", ["none", "layer_norm"])
def test_losses_and_errors_of_the_traces_agree(tmp_path, scaled):
    """With ``loss.t=mae`` validation and test are the same mean; standardised labels have no unit."""
    graphs, module = samples(crystals.SPINFUL), make_module(crystals.SPINFUL, scale_labels=scaled)
    with quiet():
        (logs,) = make_trainer(tmp_path, precision="64-true").validate(
            module, loaders(graphs)[0], verbose=False
        )
    tested = logs_of(module, tmp_path, graphs)
    factor = MEV2_PER_EV2 if scaled == "none" else 1.0
    assert tested["test/t_mae"] == pytest.approx(logs["val/loss_t"] * factor, rel=1e-10)
    assert logs["val/loss"] == pytest.approx(1.2 * logs["val/loss_h"], rel=1e-12)


@pytest.mark.parametrize(("trace", "grad"), [(False, False), (False, True)])
def test_arms_without_a_decoder_log_no_traces(tmp_path, trace, grad):
    module = make_module(trace=trace, grad=grad)
    with quiet():
        (logs,) = make_trainer(tmp_path, precision="64-true").validate(
            module, loaders(samples())[0], verbose=False
        )
    assert not [name for name in logs if "loss_t" in name]
    assert logs["val/loss"] == logs["val/loss_h"]
    assert not [name for name in logs_of(module, tmp_path, samples()) if "t_mae" in name]


@pytest.mark.parametrize("grad", [False, True])
def test_traces_do_not_change_the_prediction_of_h(grad):
    module = make_module(grad=grad).eval()
    for graph in samples():
        with torch.no_grad():
            with_traces, without = (module.model(collate([graph]), traces=traces) for traces in (True, False))
        assert without.traces == {}
        assert with_traces.traces.keys() == {"edge"}
        assert torch.equal(with_traces.blocks["edge"], without.blocks["edge"])
