from functools import partial
from math import isclose

import pytest
import torch

from callbacks.block_health import BlockHealth, BlockState, block_states, trace_share
from experiments.settings.configuration import composed, plain
from experiments.training.runs import train
from tests import molecules
from tracegrad.backbones.qhnet import QHNet
from tracegrad.errors import ConfigError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.graph import collate
from tracegrad.model.network import HamiltonianModel
from tracegrad.nn.invariant.tracegrad import TraceGrad
from tracegrad.reports.metrics_file import read_metrics
from tracegrad.training.loss import HamiltonianLoss

BASIS = OrbitalBasis.def2_svp()
SIZES = {"lmax": 2, "channels": 4, "bottleneck": 3, "layers": 2, "pair_layers": 2, "radial": 5}


def make(trace=True, grad=True, **options) -> HamiltonianModel:
    torch.manual_seed(0)
    tracegrad = partial(TraceGrad, trace=trace, grad=grad, channels=12, hidden=10, **options)
    return HamiltonianModel(QHNet(BASIS, **SIZES), tracegrad).double()


@pytest.fixture(scope="module")
def graph():
    return collate([molecules.labelled_graph(m, BASIS) for m in molecules.ALL[:3]])


def test_states_are_those_of_literal_formulas(graph):
    model = make(apply_to="edge_and_self", residual="sum")
    features = {}

    def keep(site, k, f):
        features[site, k] = f
        return model.tracegrad.refine(site, k, f, need_z=True)[0]

    model.backbone(graph, keep)
    states = block_states(model, graph)
    assert set(states) == {"edge1", "edge2", "self1", "self2"}
    for (site, k), f in features.items():
        block, state = model.tracegrad.blocks[site][k], states[f"{site}{k + 1}"]
        z, v = block(f)
        other = [torch.cat([part[:, -1:], part[:, :-1]], 1) for part in f]
        _, v_other = block(other)
        _, v_sum = block([a + b for a, b in zip(f, other, strict=True)])
        spread = (((z - z.mean(0)) ** 2).mean(0).sqrt().mean() / z.abs().mean()).item()
        assert isclose(state.z_spread, spread, rel_tol=1e-9)
        for degree, (a, b, c, d) in enumerate(zip(f, v, v_other, v_sum, strict=True)):
            name = f"{degree}e"
            assert isclose(state.ratio[name], (b.norm() / a.norm()).item(), rel_tol=1e-6)
            deviation = ((d - b - c).norm() / (b.norm() + c.norm())).item()
            assert isclose(state.nonlinearity[name], deviation, rel_tol=1e-6)


def test_a_network_is_left_as_it_was(graph):
    model = make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    block_states(model, graph)
    trace_share(model, HamiltonianLoss(BASIS), graph)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_share_of_the_traces_is_a_ratio_of_gradients(graph):
    model, loss = make(), HamiltonianLoss(BASIS)
    share = trace_share(model, loss, graph)
    terms = loss(model(graph), graph)
    weights = dict(model.backbone.named_parameters())
    lengths = []
    for part in (terms.shares["h"], terms.weights["t"] * terms.shares["t"]):
        model.zero_grad()
        part.backward(retain_graph=True)
        lengths.append(sum(float((w.grad**2).sum()) for w in weights.values() if w.grad is not None) ** 0.5)
    assert share is not None
    assert isclose(share, lengths[1] / lengths[0], rel_tol=1e-9)
    assert trace_share(make(trace=False), loss, graph) is None


def test_arms_without_v_have_the_spread_of_z_alone(graph):
    states = block_states(make(grad=False), graph)
    assert set(states) == {"edge1", "edge2"}
    assert not any(state.ratio or state.nonlinearity for state in states.values())
    assert block_states(make(trace=False, grad=False), graph) == {}


@pytest.mark.parametrize(
    ("state", "fault"),
    [
        (BlockState(1e-7, {"0e": 0.2}, {"0e": 0.5}), "z is the same for all items"),
        (BlockState(0.3, {"0e": 0.2}, {"0e": 0.01}), "v is a linear map of f"),
        (BlockState(0.3, {"0e": 1e-6}, {"0e": 0.5}), "v is negligible"),
    ],
)
def test_what_switches_a_block_off_is_named(state, fault):
    assert len(state.faults) == 1
    assert state.faults[0].startswith(fault)
    assert BlockState(0.3, {"0e": 0.2}, {"0e": 0.5}).faults == []


def test_a_training_logs_the_blocks_and_names_those_that_are_off(tmp_path, capsys):
    settings = [
        *("experiment=demo", "callbacks=block_health", "callbacks.block_health.every_n_steps=2"),
        *("tracegrad.literal=true", "model.backbone.channels=4", "model.backbone.bottleneck=2"),
        *("model.backbone.lmax=1", "data.train_size=8", "data.batch_size=4", "trainer.max_steps=4"),
        *("test=false", "logger.wandb.mode=disabled", "tracegrad.channels=8", "tracegrad.hidden=8"),
        *("callbacks.orbitals=null", "callbacks.acceleration=null", "callbacks.progress=null"),
        f"run_dir={tmp_path / 'run'}",
    ]
    config = composed("train", settings)
    train(config, plain(config))
    curves = read_metrics(tmp_path / "run" / "metrics.csv")
    assert list(curves["block/edge1/z_spread"][0]) == [0, 2]
    assert {f"block/edge{k}/ratio/{ir}" for k in (1, 2) for ir in ("0e", "1e")} <= curves.keys()
    assert "block/trace_share" in curves
    assert "warning: step 0: TraceGrad block edge1 is switched off: z is the same" in capsys.readouterr().out


@pytest.mark.usefixtures("unchecked")
def test_a_wrong_interval_is_refused():
    with pytest.raises(ConfigError, match=r"callbacks.block_health.every_n_steps is 0; give a whole number"):
        BlockHealth(0)
