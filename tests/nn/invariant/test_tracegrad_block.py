"""A block of TraceGrad: z, v and their derivatives against autograd."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from e3nn import o3

from tests.molecules import exact_representation
from tests.nn.invariant.features import SMALL, UNEVEN, make_feature
from tests.oracles.autograd_tracegrad import autograd_block, tensor_product_invariants, to_irreps, to_parts
from tracegrad.nn.invariant.tracegrad import TraceGradBlock
from tracegrad.ops.low_rank import block as low_rank

FORMS = [
    {"w": "full"},
    {"w": "low_rank", "rank": 1},
    {"w": "low_rank", "rank": 2},
    {"w": "projected", "rank": 2},
]


def make_block(irreps: o3.Irreps, **kwargs) -> TraceGradBlock:
    block = TraceGradBlock(irreps, 6, 5, hidden=7, **kwargs).double()
    for parameter in block.s_nonlin.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return block


RECOMPUTE = pytest.mark.parametrize("recompute", [False, True])


@RECOMPUTE
@pytest.mark.parametrize("final", [True, False])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("irreps", [UNEVEN, SMALL])
def test_closed_form_equals_autograd_to_second_order(irreps, form, final, recompute):
    block = make_block(irreps, final=final, **form)
    feature = make_feature(irreps)
    z, v = block(feature, recompute=recompute)
    expected_z, expected_v = autograd_block(block, irreps, feature)
    torch.testing.assert_close(z, expected_z, rtol=0, atol=1e-12)
    torch.testing.assert_close(to_irreps(v), to_irreps(expected_v), rtol=1e-12, atol=1e-12)
    assert to_irreps(v).abs().amax(0).min() > 1e-6  # every component gets its share

    inputs = [*feature, *block.parameters()]

    def gradient(z, v):
        loss = sum((part * torch.sin(part + 0.2)).sum() for part in v) + z.square().sum()
        return torch.autograd.grad(loss, inputs)

    for a, b in zip(gradient(z, v), gradient(expected_z, expected_v), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("items", [1, 11])
def test_low_rank_items_in_chunks(items, rank, monkeypatch):
    block = make_block(UNEVEN, w="low_rank", rank=rank)
    feature = make_feature(UNEVEN, items)
    inputs = [*feature, *block.parameters()]

    def everything() -> list[torch.Tensor]:
        z, v = block(feature, recompute=True)
        total = z.square().sum() + sum((part * torch.sin(part + 0.2)).sum() for part in v)
        return [z, *v, *torch.autograd.grad(total, inputs)]

    whole = everything()
    each = 2 * 6 * rank * 7  # terms of an item
    monkeypatch.setattr(low_rank, "LOW_MEMORY_CPU_NUMBERS", 4 * each)
    calls = []
    for name in ("value_and_gradient", "derivatives"):
        original = getattr(low_rank, name)
        monkeypatch.setattr(
            low_rank, name, lambda u, *rest, run=original: (calls.append(len(u)), run(u, *rest))[1]
        )
    parts = everything()
    assert calls == ([4, 4, 3] * 2 if items == 11 else [1, 1])
    for actual, expected in zip(parts, whole, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_blocks_train_in_several_threads():
    """Threads share modules: none may exchange the parameters that another one uses."""
    block = make_block(SMALL, w="low_rank")
    f = make_feature(SMALL, 40)

    def gradients(_: int = 0) -> list[torch.Tensor]:
        z, _v = block(f)
        return list(torch.autograd.grad(z.square().sum(), list(block.s_nonlin.parameters())))

    expected = gradients()
    with ThreadPoolExecutor(4) as pool:
        for actual in pool.map(gradients, range(40)):
            assert all(map(torch.allclose, actual, expected))
    assert all(parameter.is_leaf for parameter in block.parameters())


@RECOMPUTE
@pytest.mark.parametrize("form", FORMS)
def test_a_linear_network_that_is_frozen(form, recompute):
    """Then g depends on nothing that has a gradient."""
    block = make_block(SMALL, layers=1, final=False, **form)
    block.s_nonlin.requires_grad_(False)
    feature = make_feature(SMALL)
    inputs = [*feature, *block.invariants.parameters()]
    actual, expected = (
        torch.autograd.grad(z.square().sum() + sum(part.sin().sum() for part in v), inputs)
        for z, v in (block(feature, recompute=recompute), autograd_block(block, SMALL, feature))
    )
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_backward_of_a_low_rank_block_inside_autocast_is_in_full_precision():
    block = make_block(SMALL, w="low_rank").float()
    feature = [part.detach().float().requires_grad_() for part in make_feature(SMALL)]

    def gradients(low: bool) -> list[torch.Tensor]:
        z, v = block(feature, recompute=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            return torch.autograd.grad([z, *v], feature, [torch.ones_like(x) for x in (z, *v)])

    for a, b in zip(gradients(True), gradients(False), strict=True):
        assert torch.equal(a, b)


@RECOMPUTE
@pytest.mark.parametrize("form", FORMS)
def test_frozen_weights_have_no_gradient_and_change_no_other(form, recompute):
    block = make_block(SMALL, **form)
    feature = make_feature(SMALL)

    def gradients() -> list[torch.Tensor]:
        z, v = block(feature, recompute=recompute)
        inputs = [*feature, *(p for p in block.parameters() if p.requires_grad)]
        return torch.autograd.grad(z.square().sum() + sum(part.sin().sum() for part in v), inputs)

    count = len(list(block.invariants.parameters()))
    expected = gradients()[: len(feature) + count]
    for parameter in block.s_nonlin.parameters():
        parameter.requires_grad_(False)
    actual = gradients()
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


@RECOMPUTE
@pytest.mark.parametrize("form", FORMS)
def test_a_second_derivative(form, recompute):
    irreps = o3.Irreps("2x0e+1x1o")
    block = TraceGradBlock(irreps, 3, 2, hidden=3, **form).double()
    parameters = [p for p in block.parameters() if p.dim() > 1]

    def run(*values):
        named = dict(zip([n for n, p in block.named_parameters() if p.dim() > 1], values[2:], strict=True))
        z, v = torch.func.functional_call(block, named, ([*values[:2]],), {"recompute": recompute})
        return z, *v

    inputs = [*make_feature(irreps, 2), *(p.detach().requires_grad_() for p in parameters)]
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize("form", FORMS)
def test_invariants_are_those_of_an_e3nn_tensor_product(form):
    block = make_block(UNEVEN, **form)
    feature = make_feature(UNEVEN)
    z, v = block(feature)
    expected_z, expected_v = autograd_block(block, UNEVEN, feature, tensor_product_invariants)
    torch.testing.assert_close(z, expected_z, rtol=0, atol=1e-12)
    torch.testing.assert_close(to_irreps(v), to_irreps(expected_v), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", FORMS[:3])  # few projected channels are not independent
def test_initial_invariants_have_the_variance_of_a_tensor_product(form):
    irreps, channels, items = o3.Irreps("16x0e+16x1e"), 3000, 40
    with torch.no_grad():
        block = TraceGradBlock(irreps, channels, 2, **form)
        x, _ = block.invariants([torch.randn(ir.dim, items, mul) for mul, ir in irreps])
        mixing = block.invariants.mixing()
        u = x if mixing is None else x @ mixing
    # Normal f, W and all pairs: <u^2> = mean over pairs of <f_i, f_j>^2 / (2l + 1) = 1 for i != j.
    expected = (2 * 16 * 15 + 16 * 3 + 16 * 5 / 3) / (2 * 16**2)
    assert float(u.square().mean()) == pytest.approx(expected, rel=0.25)


@pytest.mark.parametrize("form", FORMS)
def test_theorem_2_v_is_equivariant_and_z_invariant(form):
    block = make_block(UNEVEN, **form)
    feature = make_feature(UNEVEN)
    z, v = block(feature)
    rotation = -o3.rand_matrix(dtype=torch.float64)  # with inversion: parities are kept apart
    representation = exact_representation(UNEVEN, rotation)
    z_rotated, v_rotated = block(to_parts(to_irreps(feature) @ representation.T, UNEVEN))
    torch.testing.assert_close(z_rotated, z, rtol=0, atol=1e-12)
    torch.testing.assert_close(to_irreps(v_rotated), to_irreps(v) @ representation.T, rtol=0, atol=1e-11)


@pytest.mark.parametrize("final", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_v_in_evaluation_and_at_initialisation_is_not_zero(form, final):
    block = TraceGradBlock(SMALL, 16, 9, hidden=12, final=final, **form).double().eval()
    feature = [part.detach() for part in make_feature(SMALL)]
    z, v = block(feature)
    with torch.inference_mode():
        z_inference, v_inference = block(feature)
        assert torch.equal(
            block.encode(feature), block.s_nonlin(block.invariants(feature)[0], block.invariants.mixing())
        )
    torch.testing.assert_close(z, z_inference, rtol=0, atol=1e-14)
    for part, inference, f in zip(v, v_inference, feature, strict=True):
        torch.testing.assert_close(part, inference, rtol=0, atol=1e-14)
        assert part.abs().mean() > 1e-3 * f.abs().mean()


def test_a_bare_layer_norm_at_the_end_would_make_v_vanish():
    """Why ``final`` includes an activation: without it after the last LayerNorm, v is zero."""
    block = TraceGradBlock(SMALL, 16, 9, hidden=12, final=False).double()
    feature = [f.requires_grad_() for f in make_feature(SMALL)]
    bare = torch.nn.functional.layer_norm(block.encode(feature), (9,))
    v = torch.autograd.grad(bare.sum(), feature)
    assert to_irreps(v).abs().max() < 1e-12


@pytest.mark.parametrize("w", ["full", "low_rank", "projected"])
def test_with_a_zero_bias_z_starts_the_same_for_features_of_any_size(w):
    torch.manual_seed(0)
    block = TraceGradBlock(SMALL, 6, 5, hidden=7, w=w, zero_bias=True, eps=1e-30).double()
    feature = make_feature(SMALL)
    z, v = block(feature)
    for size in (1e-4, 1e3):
        z_scaled, v_scaled = block([size * part for part in feature])
        torch.testing.assert_close(z_scaled, z, rtol=1e-9, atol=1e-12)
        for one, other in zip(v_scaled, v, strict=True):
            torch.testing.assert_close(size * one, other, rtol=1e-8, atol=1e-12)
    assert z.std(0).max() > 0.01
