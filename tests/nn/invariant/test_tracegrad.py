"""The blocks of a network: where they stand, their residuals, gains and decoders."""

import pytest
import torch

from tests.nn.invariant.features import SMALL, UNEVEN, make_feature
from tests.oracles.autograd_tracegrad import to_irreps
from tracegrad.errors import ConfigError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.nn.invariant.tracegrad import TraceGrad

TWO, THREE = (OrbitalBasis({1: shells}) for shells in ((0, 1), (0, 0, 1)))


def test_relative_residual_scales_v_to_a_fifth_of_f():
    module = TraceGrad(
        {"edge": [SMALL]}, TWO, trace=False, grad=True, channels=4, hidden=5, residual="relative"
    ).double()
    feature = make_feature(SMALL)
    o, _ = module.refine("edge", 0, feature, need_z=False)
    _, v = module.blocks["edge"][0](feature)
    f, added, v = to_irreps(feature), to_irreps(o) - to_irreps(feature), to_irreps(v)
    torch.testing.assert_close(added.norm(dim=-1), 0.2 * f.norm(dim=-1), rtol=1e-12, atol=0)
    torch.testing.assert_close(added / added.norm(dim=-1)[:, None], v / v.norm(dim=-1)[:, None])


def test_relative_residual_of_a_vanishing_feature_is_zero_with_finite_gradients():
    module = TraceGrad(
        {"edge": [SMALL]}, TWO, trace=False, grad=True, channels=4, hidden=5, residual="relative"
    ).double()
    feature = [torch.zeros(ir.dim, 2, mul, dtype=torch.float64, requires_grad=True) for mul, ir in SMALL]
    o, _ = module.refine("edge", 0, feature, need_z=False)
    assert to_irreps(o).abs().max() == 0
    to_irreps(o).sum().backward()
    assert all(part.grad.isfinite().all() for part in feature)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("residual", ["sum", "relative"])
def test_a_gain_of_zero_keeps_f_and_learns(residual, recompute):
    options = {"trace": False, "grad": True, "channels": 4, "hidden": 5, "residual": residual}
    plain = TraceGrad({"edge": [UNEVEN]}, TWO, **options).double()
    module = TraceGrad({"edge": [UNEVEN]}, TWO, gain="zero", recompute=recompute, **options).double()
    module.load_state_dict(plain.state_dict(), strict=False)
    feature = make_feature(UNEVEN)
    o, _ = module.refine("edge", 0, feature, need_z=False)
    assert all(torch.equal(a, b) for a, b in zip(o, feature, strict=True))

    (gain,) = module.gains["edge"]
    assert gain.shape == (len(UNEVEN),)
    weights = [torch.randn_like(part) for part in feature]
    sum((w * part).sum() for w, part in zip(weights, o, strict=True)).backward()
    full, _ = plain.refine("edge", 0, feature, need_z=False)
    expected = [(w * (a - b)).sum() for w, a, b in zip(weights, full, feature, strict=True)]
    torch.testing.assert_close(gain.grad, torch.stack(expected), rtol=1e-11, atol=1e-13)
    assert gain.grad.abs().min() > 1e-6
    assert all(parameter.grad is not None for parameter in module.parameters())

    with torch.no_grad():
        gain.copy_(torch.tensor([1.0, -2.0, 0.5, 0.0]))
    o, _ = module.refine("edge", 0, feature, need_z=False)
    for factor, part, a, b in zip(gain, o, full, feature, strict=True):
        torch.testing.assert_close(part, b + factor * (a - b), rtol=1e-12, atol=1e-13)


def test_gains_exist_where_v_is_added():
    irreps = {"edge": [SMALL, UNEVEN], "self": [SMALL, UNEVEN]}

    def sizes(**options):
        module = TraceGrad(irreps, THREE, channels=4, hidden=5, gain="zero", **options)
        return {site: [len(gain) for gain in gains] for site, gains in module.gains.items()}

    assert sizes(trace=True, grad=True, apply_to="edge_and_self") == {"edge": [4, 4], "self": [4, 4]}
    assert sizes(trace=True, grad=True, last_v=False) == {"edge": [4]}
    assert sizes(trace=True, grad=False) == sizes(trace=False, grad=False) == {}


def test_switches_decide_what_a_block_computes():
    irreps = {"edge": [SMALL, SMALL], "self": [SMALL, SMALL]}
    feature = make_feature(SMALL)

    def build(**kwargs):
        return TraceGrad(irreps, THREE, channels=4, hidden=5, **kwargs).double()

    none = build(trace=False, grad=False)
    assert not list(none.parameters())
    assert none.refine("edge", 0, feature, need_z=True) == (feature, None)

    trace = build(trace=True, grad=False)
    o, z = trace.refine("edge", 1, feature, need_z=True)
    assert o is feature
    assert z.shape == (4, 9)
    assert trace.refine("edge", 1, feature, need_z=False) == (feature, None)
    assert trace.decode({"edge": [z, z]})["edge"].shape == (4, 9)

    last = build(trace=True, grad=True, last_v=False)
    assert last.refine("edge", 0, feature, need_z=True)[0] is not feature
    assert last.refine("edge", 1, feature, need_z=True)[0] is feature
    assert len(build(trace=False, grad=True, last_v=False).blocks["edge"]) == 1

    both = build(trace=True, grad=True, apply_to="edge_and_self")
    assert both.refine("self", 0, feature, need_z=True)[0] is not feature
    assert trace.refine("self", 0, feature, need_z=True) == (feature, None)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"w": "sparse"}, "tracegrad.w is 'sparse'"),
        ({"apply_to": "nodes"}, "tracegrad.apply_to is 'nodes'"),
        ({"residual": "none"}, "tracegrad.residual is 'none'"),
        ({"gain": "one"}, "tracegrad.gain is 'one'; choose none or zero"),
        ({"channels": 0}, "tracegrad.channels is 0; give a whole number >= 1"),
        ({"hidden": 2.5}, "tracegrad.hidden is 2.5"),
        ({"width": -1}, "tracegrad.width is -1; give a whole number >= 0"),
        ({"encoder_layers": 0}, "tracegrad.encoder_layers is 0"),
        ({"decoder_layers": 0}, "tracegrad.decoder_layers is 0"),
        ({"rank": 0}, "tracegrad.rank is 0"),
        ({"rank": "two"}, "tracegrad.rank is 'two'"),
        ({"blocks": 0}, "tracegrad.blocks is 0; give a whole number >= 1"),
        ({"blocks": 2}, "tracegrad.blocks is 2, but the backbone refines 1 features"),
        ({"spin_trace": "mean"}, "tracegrad.spin_trace is 'mean'; choose one of"),
        ({"norm_eps": 0}, "tracegrad.norm_eps is 0; give a number between 0 and 1"),
        ({"rank": 2, "w": "full"}, "tracegrad.rank is 2, but tracegrad.w=full has none"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_unknown_options_are_named(option, message):
    with pytest.raises(ConfigError, match=message):
        TraceGrad({"edge": [SMALL], "self": [SMALL]}, TWO, trace=True, grad=True, **option)


@pytest.mark.parametrize(
    ("spin_trace", "labels"), [("sum", 49), ("singlet_triplet", 98), ("per_spin_block", 196)]
)
def test_z_is_as_wide_as_there_are_basic_blocks(spin_trace, labels):
    """The paper counts 36 for QH9, 25 for graphene and 196 for s3p2d2 with spin."""
    for basis, width in (
        (OrbitalBasis.def2_svp(), 36),
        (OrbitalBasis.openmx({"C": "s2p2d1"}), 25),
        (OrbitalBasis.openmx({"Bi": "s3p2d2", "Te": "s3p2d2"}, spinful=True), 196),
    ):
        module = TraceGrad(
            {"edge": [SMALL]}, basis, trace=True, grad=True, channels=4, hidden=5, spin_trace=spin_trace
        )
        with torch.no_grad():
            z = module.blocks["edge"][0].encode([f.float() for f in make_feature(SMALL)])
            traces = module.decode({"edge": [z]})["edge"]
        assert z.shape == (4, width)
        assert traces.shape == (4, labels if basis.spinful else width)


def test_backbones_without_on_site_features_only_have_edges():
    module = TraceGrad({"edge": [SMALL]}, TWO, trace=True, grad=True, apply_to="edge_and_self")
    assert set(module.blocks) == set(module.decoders) == {"edge"}


def test_literal_is_the_initialisation_of_torch_on_edges():
    irreps = {"edge": [SMALL], "self": [SMALL]}

    def build(**options):
        torch.manual_seed(3)
        return TraceGrad(irreps, TWO, trace=True, grad=True, channels=4, hidden=5, **options)

    ours = {"apply_to": "edge_and_self", "zero_bias": True, "norm_eps": 1e-12}
    literal, plain = build(literal=True, **ours), build()
    assert literal.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(literal.parameters(), plain.parameters(), strict=True))
    assert {m.eps for m in literal.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-6}
    first = build(**ours).blocks["self"][0].s_nonlin.stages[0]
    assert not first.linear.bias.any()
    assert first.norm.eps == 1e-12


@pytest.mark.parametrize(("trace", "grad"), [(True, False), (False, True), (True, True)])
def test_fewer_blocks_are_those_of_the_first_features(trace, grad):
    feature = make_feature(SMALL)
    module = TraceGrad(
        {"edge": [SMALL] * 3}, THREE, trace=trace, grad=grad, channels=4, hidden=5, blocks=1, gain="zero"
    ).double()
    assert len(module.blocks["edge"]) == 1
    assert module.gradients["edge"] == [grad, False, False]
    assert [len(gains) for gains in module.gains.values()] == [1] * grad
    o, z = module.refine("edge", 0, feature, need_z=True)
    assert z.shape == (4, 9)
    assert (o is feature) == (not grad)
    assert module.refine("edge", 1, feature, need_z=True) == (feature, None)
    assert module.refine("edge", 2, feature, need_z=True) == (feature, None)
    if trace:
        assert module.decode({"edge": [z]})["edge"].shape == (4, 9)


def test_lean_wins_over_the_sizes_of_a_recipe():
    irreps = {"edge": [UNEVEN] * 2, "self": [UNEVEN] * 2}

    def build(**options):
        torch.manual_seed(3)
        return TraceGrad(irreps, TWO, trace=True, grad=True, **options)

    small = {"blocks": 1, "w": "projected", "rank": 8, "channels": 64, "hidden": 64}
    lean, expected = build(lean=True, w="full", channels=1024, apply_to="edge_and_self"), build(**small)
    assert set(lean.blocks) == {"edge", "self"}
    for a, b in zip(lean.blocks["edge"].parameters(), expected.blocks["edge"].parameters(), strict=True):
        assert torch.equal(a, b)
    assert (lean.lean, expected.lean) == (True, False)


def test_v_of_the_lean_block_is_the_gradient_of_z():
    module = TraceGrad({"edge": [UNEVEN]}, TWO, trace=True, grad=True, lean=True).double()
    feature = [part.requires_grad_() for part in make_feature(UNEVEN)]
    o, z = module.refine("edge", 0, feature, need_z=True)
    v = torch.autograd.grad(z.sum(), feature, retain_graph=True)
    for added, f, gradient in zip(o, feature, v, strict=True):
        torch.testing.assert_close(added - f, gradient, rtol=1e-11, atol=1e-12)
        assert gradient.abs().max() > 1e-6
