import math

import jaxtyping
import pytest
import torch

from tests import molecules
from tests.oracles.qhnet_e3nn import plain_copy
from tracegrad.backbones.qhnet import QHNet
from tracegrad.errors import ConfigError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.graph import collate
from tracegrad.nn.component_first.features import spherical_harmonics
from tracegrad.nn.radial import ExponentialBernstein
from tracegrad.ops.norm_gate import channel_norms


def small(basis: OrbitalBasis, **kwargs) -> QHNet:
    options = {"lmax": 2, "channels": 4, "bottleneck": 3, "layers": 3, "pair_layers": 2, "radial": 5}
    model = QHNet(basis, **{**options, **kwargs}).double()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # they start at zero, which would hide mistakes
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"lmax": 4, "channels": 2, "bottleneck": 2, "layers": 2, "pair_layers": 1},
        {"cutoff": 1.5, "pair_layers": 3, "species": 10},
    ],
)
def test_equals_the_plain_e3nn_form(basis, sizes):
    model = small(basis, **sizes)
    plain = plain_copy(model)
    graph = collate([molecules.labelled_graph(m, basis) for m in (molecules.WATER, molecules.METHANOL)])

    actual, expected = model(graph), plain(graph)
    torch.testing.assert_close(actual["self"], expected["self"], rtol=0, atol=1e-12)
    torch.testing.assert_close(actual["edge"], expected["edge"], rtol=0, atol=1e-12)
    assert expected["edge"].abs().mean() > 1e-3

    for blocks in (actual, expected):
        loss = (blocks["self"] - graph.h_self).square().sum() + (blocks["edge"] - graph.h_edge).square().sum()
        loss.backward()
    theirs = dict(plain.named_parameters())
    for name, parameter in model.named_parameters():
        gradient = theirs[name].grad.view_as(parameter)
        scale = float(gradient.abs().max())
        torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=1e-10 * scale + 1e-14, msg=name)


def test_other_shells_than_those_of_qh9():
    basis = OrbitalBasis({1: (0, 1), 6: (0, 0, 1, 2, 2)}, name="test")
    model = small(basis, layers=2, pair_layers=1)
    numbers = molecules.METHANOL[0].copy()
    numbers[1] = 6
    graph = collate([molecules.labelled_graph((numbers, molecules.METHANOL[1]), basis)])
    actual, expected = model(graph), plain_copy(model)(graph)
    torch.testing.assert_close(actual["self"], expected["self"], rtol=0, atol=1e-12)
    torch.testing.assert_close(actual["edge"], expected["edge"], rtol=0, atol=1e-12)


def test_forces_with_and_without_a_graph_are_finite_differences(basis):
    model = small(basis)
    graph = molecules.labelled_graph(molecules.WATER, basis)
    start = graph.positions.clone()

    def total(positions: torch.Tensor) -> torch.Tensor:
        graph.positions = positions
        blocks = model(graph)
        return sum((part * torch.sin(part)).sum() for part in blocks.values())

    positions = start.clone().requires_grad_()
    value = total(positions)
    forces = [
        torch.autograd.grad(value, positions, create_graph=recorded, retain_graph=True)[0]
        for recorded in (False, True)
    ]
    torch.testing.assert_close(forces[0], forces[1], rtol=0, atol=1e-12)
    direction = torch.randn_like(start)
    with torch.no_grad():
        change = (total(start + 1e-5 * direction) - total(start - 1e-5 * direction)) / 2e-5
    torch.testing.assert_close((forces[0] * direction).sum(), change, rtol=1e-7, atol=1e-9)


def test_messages_end_at_the_cutoff(basis):
    model = small(basis, cutoff=15.0)
    graph = molecules.labelled_graph(molecules.FAR, basis)
    pair = molecules.labelled_graph((molecules.FAR[0][:2], molecules.FAR[1][:2]), basis)
    torch.testing.assert_close(model(graph)["self"][:2], model(pair)["self"], rtol=0, atol=1e-13)


def test_refinement_is_called_once_per_feature_and_used(basis):
    model = small(basis)
    graph = molecules.labelled_graph(molecules.WATER, basis)
    calls = []

    def refine(site, k, feature):
        irreps = model.feature_irreps[site][k]
        assert [tuple(part.shape) for part in feature] == [
            (ir.dim, 3 if site == "self" else 6, mul) for mul, ir in irreps
        ]
        calls.append((site, k))
        return [part * 2 for part in feature]

    refined = model(graph, refine)
    assert sorted(calls) == [("edge", 0), ("edge", 1), ("self", 0), ("self", 1)]
    assert (refined["edge"] - model(graph)["edge"]).abs().max() > 1e-3
    assert (refined["self"] - model(graph)["self"]).abs().max() > 1e-3


def test_full_size_has_the_parameters_of_the_released_network_that_are_used(basis):
    channels, degrees, paths = 128, 5, 65
    unused = {
        "norm gate of the first convolution": 2 * channels * (channels + 1),
        "two linear maps of the first convolution": 2 * channels * (channels + 1),
        "second linear map of both pair layers": 2 * channels * (degrees * channels + 1),
        "second product of both pair layers": 2 * paths * channels,
        "default weights of both expansions": 2 * (1_792 + 14),
    }
    count = sum(parameter.numel() for parameter in QHNet(basis, species=10).parameters())
    assert count == 20_415_673 - sum(unused.values())


def test_radial_functions_against_their_formula():
    radial = ExponentialBernstein(6, 15.0).double()
    radial.alpha.data.fill_(0.3)
    r = torch.tensor([0.4, 1.0, 7.5, 14.9, 14.99999, 15.0, 15.1, 40.0], dtype=torch.float64)
    a = math.log1p(math.exp(0.3))
    values = radial(r)
    for row, distance in enumerate(r.tolist()):
        for v in range(6):
            expected = 0.0
            if distance < 15.0:
                cut = math.exp(-(distance**2) / ((15 - distance) * (15 + distance)))
                decay = math.exp(-a * distance)
                expected = cut * math.comb(5, v) * decay ** (5 - v) * (1 - decay) ** v
            assert float(values[row, v].detach()) == pytest.approx(expected, rel=1e-12, abs=1e-300)
    (gradient,) = torch.autograd.grad(values.sum(), radial.alpha)
    assert gradient.isfinite()
    assert float(ExponentialBernstein(6, 15.0).alpha.detach().exp().log1p()) == pytest.approx(0.5, abs=1e-6)


def test_harmonics_of_a_zero_vector_are_those_of_degree_0():
    values = spherical_harmonics(torch.zeros(1, 3, dtype=torch.float64), 3)
    assert values[0] == 1
    assert values[1:].abs().max() == 0


def test_harmonics_are_standard_real_ones():
    x, y, z = (torch.tensor([0.6, -0.48, 0.64], dtype=torch.float64)).tolist()
    values = spherical_harmonics(torch.tensor([[1.2, -0.96, 1.28]], dtype=torch.float64), 2)[:, 0]
    expected = [1.0, *(math.sqrt(3) * c for c in (y, z, x))]
    expected += [math.sqrt(15) * x * y, math.sqrt(15) * y * z, math.sqrt(5) * (1.5 * z * z - 0.5)]
    expected += [math.sqrt(15) * x * z, math.sqrt(15) / 2 * (x * x - y * y)]
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-13)


def test_norm_of_a_zero_feature_has_a_zero_gradient():
    x = torch.zeros(4, 2, 3, dtype=torch.float64, requires_grad=True)
    channel_norms(x).sum().backward()
    assert torch.equal(x.grad[1:], torch.zeros_like(x.grad[1:]))
    assert torch.equal(x.grad[0], torch.ones_like(x.grad[0]))


def test_shapes_in_signatures_are_checked_in_tests():
    with pytest.raises(jaxtyping.TypeCheckError):
        spherical_harmonics(torch.zeros(2, 4), 1)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"lmax": 0}, "model.backbone.lmax is 0; give a whole number >= 1"),
        ({"channels": 0}, "model.backbone.channels is 0"),
        ({"bottleneck": -1}, "model.backbone.bottleneck is -1"),
        ({"radial": 1.5}, "model.backbone.radial is 1.5"),
        ({"layers": 0}, "model.backbone.layers is 0"),
        ({"pair_layers": 0}, "model.backbone.pair_layers is 0; give a whole number from 1 to 3"),
        ({"pair_layers": 4}, "model.backbone.pair_layers is 4; give a whole number from 1 to 3"),
        ({"cutoff": 0.0}, "model.backbone.cutoff is 0.0; give a distance > 0"),
        ({"cutoff": math.nan}, "model.backbone.cutoff is nan"),
        ({"species": 9}, "model.backbone.species is 9; give a whole number >= 10"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_impossible_sizes_are_named(basis, option, message):
    with pytest.raises(ConfigError, match=message):
        small(basis, **option)


def test_a_basis_with_spin_is_refused():
    with pytest.raises(ConfigError, match=r"QHNet, which predicts real blocks, but the basis .* has spin"):
        QHNet(OrbitalBasis.openmx({"C": "s2p2d1"}, spinful=True))
