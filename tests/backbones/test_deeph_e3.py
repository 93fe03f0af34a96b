"""The form of DeepH-E3, its features with TraceGrad, precision, arguments and chunks."""

import math
from functools import partial

import pytest
import torch
from torch.nn.functional import one_hot

from tests import crystals
from tests.backbones.crystal_networks import DEEPH_E3, blocks_of, deeph_e3, graph_of, rotated, turning_error
from tests.model.test_network import ARMS
from tests.molecules import random_rotation
from tests.nn.item_first.test_shell_pairs import orbital_rotation
from tests.oracles.autograd_tracegrad import autograd_block, to_irreps
from tracegrad.backbones.deeph_e3 import DeepHE3
from tracegrad.errors import ConfigError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.graph import collate
from tracegrad.model.network import HamiltonianModel
from tracegrad.nn.invariant.tracegrad import TraceGrad
from tracegrad.nn.radial import GaussianBasis
from tracegrad.training.loss import HamiltonianLoss

SPINLESS, SPINFUL = crystals.SPINLESS, crystals.SPINFUL


# --- the form of the network


def test_full_size_has_the_parameters_of_the_released_network_that_are_used():
    count = sum(p.numel() for p in DeepHE3(OrbitalBasis.openmx({"C": "s2p2d1"})).parameters())
    unused = 64 + 1  # of the last linear map of the nodes
    assert count == 627_981 - unused


def test_pseudoscalars_need_axial_vectors_among_the_last_nodes():
    last = deeph_e3(SPINFUL).backbone.node_updates[-1].irreps
    assert str(last) == "6x0e+4x1o+3x2e+2x3o+4x1e"
    assert str(deeph_e3(SPINLESS).backbone.node_updates[-1].irreps) == DEEPH_E3["irreps"]
    backbone = deeph_e3(SPINFUL, last_node_irreps="5x0e+4x1o+3x2e+2x3o+2x1e").backbone
    assert str(backbone.node_updates[-1].irreps) == "5x0e+4x1o+3x2e+2x3o+2x1e"


def test_nodes_may_have_other_irreps_than_edges():
    model = deeph_e3(SPINFUL, node_irreps="5x0e+3x1o+2x1e+2x2e+1x3o")
    rotation = -random_rotation(2)
    u = orbital_rotation(SPINFUL, rotation)
    actual = blocks_of(model, rotated(crystals.MOS2, rotation))
    torch.testing.assert_close(actual, u @ blocks_of(model, crystals.MOS2) @ u.mH, rtol=0, atol=1e-9)


@crystals.BASES
def test_refinement_is_called_once_per_feature_and_used(basis):
    model = deeph_e3(basis, blocks=3).backbone
    graph = graph_of(crystals.MOS2, basis=basis)
    edges, calls = graph.edge_index.shape[1], []
    assert set(model.feature_irreps) == {"edge"}
    assert model.periodic

    def doubled(number: int):
        def refine(site, k, feature):
            irreps = model.feature_irreps[site][k]
            assert [tuple(part.shape) for part in feature] == [(ir.dim, edges, mul) for mul, ir in irreps]
            calls.append((site, k))
            return [part * 2 for part in feature] if k == number else feature

        return refine

    plain = model(graph, doubled(-1))["edge"]
    assert calls == [("edge", 0), ("edge", 1), ("edge", 2)]
    assert torch.equal(plain, model(graph)["edge"])
    for k in range(3):
        assert (model(graph, doubled(k))["edge"] - plain).abs().max() > 1e-3


def test_elements_far_apart_in_the_table_and_of_one_kind():
    """The rows of the embedding are elements of the basis, not atomic numbers."""
    model = deeph_e3(SPINLESS).backbone
    graph = graph_of(crystals.MOS2, basis=SPINLESS)
    kinds = model.kinds(graph)
    assert kinds.tolist() == [1, 0, 0]
    embedded = one_hot(kinds, 2).double() @ model.embedding / math.sqrt(2)
    seen = []
    model.node_updates[0].register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    model(graph)
    torch.testing.assert_close(seen[0][0][:, 0], embedded, rtol=0, atol=1e-13)


def test_gaussians_against_their_formula():
    radial = GaussianBasis(5, 6.0)
    r = torch.tensor([0.0, 0.4, 3.0, 7.9], dtype=torch.float64)
    expected = [[math.exp(-((x - 1.5 * k) ** 2) / (2 * 1.5**2)) for k in range(5)] for x in r.tolist()]
    torch.testing.assert_close(radial(r), torch.tensor(expected, dtype=torch.float64), rtol=1e-13, atol=0)


@pytest.mark.parametrize("arm", ARMS)
@crystals.BASES
def test_every_parameter_is_used(basis, arm):
    model = deeph_e3(basis, arm)
    graph = collate([crystals.labelled_graph(s, basis, seed) for seed, s in enumerate((crystals.MOS2,) * 2)])
    HamiltonianLoss(basis)(model(graph), graph).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.numel() == 0 or parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("sample", crystals.ALL, ids=["MoS2", "chain", "alone", "bonds"])
@crystals.BASES
def test_gradients_are_finite_where_features_vanish(basis, sample):
    """The pseudoscalars of an isolated atom are zero, and so is their deviation in the norm."""
    model = deeph_e3(basis)
    graph = collate([crystals.labelled_graph(sample, basis)])
    HamiltonianLoss(basis)(model(graph), graph).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


# --- with TraceGrad


def features_of(model: HamiltonianModel, graph) -> list[list[torch.Tensor]]:
    """f of each block as TraceGrad gets it."""
    seen = []

    def refine(site, k, f):
        seen.append([part.detach() for part in f])
        return model.tracegrad.refine(site, k, f, need_z=True)[0]

    model.backbone(graph, refine)
    return seen


@pytest.mark.parametrize("spinful", [False, True])
def test_v_is_the_gradient_of_z_also_in_inference_mode(spinful):
    basis = OrbitalBasis.openmx({"Mo": "s1p1", "S": "s1"}, spinful=spinful)
    model = deeph_e3(basis, "tracegrad")
    graph = graph_of(crystals.MOS2, crystals.CHAIN, basis=basis)
    features = features_of(model, graph)
    assert len(features) == DEEPH_E3["blocks"]
    for k, f in enumerate(features):
        irreps = model.backbone.feature_irreps["edge"][k]
        block = model.tracegrad.blocks["edge"][k]
        with torch.inference_mode():
            z, v = block([part.clone() for part in f])
        expected_z, expected_v = autograd_block(block, irreps, [part.clone() for part in f])
        torch.testing.assert_close(z.clone(), expected_z.detach(), rtol=0, atol=1e-10)
        torch.testing.assert_close(to_irreps(v).clone(), to_irreps(expected_v).detach(), rtol=1e-9, atol=1e-9)
        assert to_irreps(v).abs().mean() > 1e-4
    # What TraceGrad adds reaches H.
    plain = HamiltonianModel(model.backbone)
    assert (blocks_of(model, crystals.MOS2) - blocks_of(plain, crystals.MOS2)).abs().max() > 1e-3


@crystals.BASES
def test_traces_are_invariant(basis):
    model = deeph_e3(basis, "tracegrad")
    reference = model(graph_of(crystals.MOS2, basis=basis)).traces
    for seed in range(3):
        sample = rotated(crystals.MOS2, random_rotation(seed) * (-1) ** seed)
        traces = model(graph_of(sample, basis=basis)).traces
        assert traces.keys() == {"edge"}
        torch.testing.assert_close(traces["edge"], reference["edge"], rtol=0, atol=1e-10)
    assert reference["edge"].std() > 1e-3


# --- precision


@pytest.mark.parametrize(("arm", "bound"), [("none", 2e-3), ("tracegrad", 4e-3)])
def test_mixed_precision_keeps_most_of_the_equivariance(arm, bound):
    """The remaining error comes from the invariants: rounding to bfloat16 amplifies their float32 differences."""
    sizes = {"irreps": "16x0e+8x1o+6x2e+4x3o+2x4e", "embed": 16, "lmax": 4, "radial": 32, "blocks": 2}
    model = deeph_e3(SPINFUL, arm, **sizes).float()

    def error(low: bool) -> float:
        return sum(turning_error(model, random_rotation(seed), low=low) for seed in range(3)) / 3

    assert error(False) < 5e-5
    assert error(True) < bound


# --- arguments


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"embed": 1}, "model.backbone.embed is 1; give a whole number >= 2"),
        ({"embed": 2.5}, "model.backbone.embed is 2.5"),
        ({"blocks": 0}, "model.backbone.blocks is 0; give a whole number >= 1"),
        ({"blocks": True}, "model.backbone.blocks is True"),
        ({"lmax": -1}, "model.backbone.lmax is -1; give a whole number >= 0"),
        ({"radial": 1}, "model.backbone.radial is 1; give a whole number >= 2"),
        ({"cutoff": 0.0}, "model.backbone.cutoff is 0.0; give a distance > 0"),
        ({"cutoff": math.inf}, "model.backbone.cutoff is inf"),
        ({"cutoff": math.nan}, "model.backbone.cutoff is nan"),
        ({"cutoff": "7"}, "model.backbone.cutoff is '7'"),
        ({"irreps": ""}, "model.backbone.irreps is ''; name each irrep once"),
        ({"irreps": "4x0e+3x0e"}, "model.backbone.irreps is '4x0e.3x0e'; name each irrep once"),
        ({"irreps": "4x0e+0x1o"}, "model.backbone.irreps is '4x0e.0x1o'; .* with 1 channel or more"),
        ({"irreps": "64 scalars"}, "model.backbone.irreps is '64 scalars'; irreps are written like"),
        ({"irreps": 64}, "model.backbone.irreps is 64; irreps are written like"),
        ({"node_irreps": "4x0e+x"}, "model.backbone.node_irreps is '4x0e.x'"),
        ({"last_node_irreps": "4x1e+3x1e"}, "model.backbone.last_node_irreps is '4x1e.3x1e'; name each"),
        ({"time_reversal": True}, "time_reversal=true needs a spinful basis"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_impossible_arguments_are_named(option, message):
    with pytest.raises(ConfigError, match=message):
        DeepHE3(SPINLESS, **{**DEEPH_E3, **option})


@pytest.mark.parametrize(
    ("basis", "options", "message"),
    [
        (SPINLESS, {"irreps": "4x0e", "lmax": 1}, "needs .*2e.* which 2 blocks of 4x0e"),
        (SPINFUL, {"blocks": 1}, "needs 0o.* raise the degrees .* or its blocks"),
    ],
)
def test_hamiltonians_out_of_reach_are_named(basis, options, message):
    with pytest.raises(ConfigError, match=message):
        DeepHE3(basis, **{**DEEPH_E3, **options})


@crystals.BASES
@pytest.mark.parametrize(("edge_chunk", "recompute"), [(7, False), (None, True), (11, True)])
def test_chunks_and_recomputing_change_nothing(basis, edge_chunk, recompute):
    """The same loss and gradients, for graphs of different size and with whole-graph means over all chunks."""
    torch.manual_seed(0)
    make = partial(TraceGrad, trace=True, grad=True, channels=8, hidden=8, w="full")
    model = HamiltonianModel(DeepHE3(basis, **DEEPH_E3), make).double()
    graph = collate([crystals.labelled_graph(c, basis, i) for i, c in enumerate(crystals.ALL)])
    loss = HamiltonianLoss(basis, model.trace_labels, h=["mse"])

    def gradients() -> tuple[torch.Tensor, torch.Tensor]:
        model.zero_grad()
        total = loss(model(graph), graph).total
        total.backward()
        return total.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])

    expected = gradients()
    model.backbone.edge_chunk, model.backbone.recompute = edge_chunk, recompute
    model.tracegrad.recompute = recompute
    for actual, value in zip(gradients(), expected, strict=True):
        torch.testing.assert_close(actual, value, rtol=0, atol=1e-12 * float(value.abs().max()))


def test_recomputing_stores_less():
    torch.manual_seed(0)
    graph = collate([crystals.labelled_graph(crystals.ALL[0], SPINLESS, 0)])

    def stored(recompute: bool) -> int:
        model = DeepHE3(SPINLESS, **DEEPH_E3, recompute=recompute).double()
        numbers = 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal numbers
            numbers += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            model(graph)
        return numbers

    assert stored(recompute=True) < stored(recompute=False) / 2
