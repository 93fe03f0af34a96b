import itertools

import pytest
import torch

from tracegrad.nn.invariant.invariant_mlp import InvariantMLP

OPTIONS = list(itertools.product((1, 2, 3), *[(True, False)] * 3))


def make(layers: int, norm: bool, final: bool, final_bias: bool) -> InvariantMLP:
    mlp = InvariantMLP([*[5, 7, 6][:layers], 4], norm=norm, final=final, final_bias=final_bias).double()
    for parameter in mlp.parameters():  # LayerNorm starts at 1 and 0, which would hide mistakes
        parameter.data += 0.3 * torch.randn_like(parameter)
    return mlp


@pytest.mark.parametrize(("layers", "norm", "final", "final_bias"), OPTIONS)
def test_value_and_gradient_equal_autograd_to_second_order(layers, norm, final, final_bias):
    mlp = make(layers, norm, final, final_bias)
    x = torch.randn(9, 5, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(9, 5, dtype=torch.float64)
    z, g = mlp.value_and_gradient(x)
    expected_z = mlp(x)
    (expected_g,) = torch.autograd.grad(expected_z.sum(), x, create_graph=True)
    torch.testing.assert_close(z, expected_z, rtol=0, atol=1e-13)
    torch.testing.assert_close(g, expected_g, rtol=0, atol=1e-12)

    inputs = [x, *mlp.parameters()]
    options = {"allow_unused": True, "materialize_grads": True}
    actual = torch.autograd.grad((g * weights).sum() + z.square().sum(), inputs, **options)
    expected = torch.autograd.grad(
        (expected_g * weights).sum() + expected_z.square().sum(), inputs, **options
    )
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("rows", "composed"), [(3, False), (90, True)])
def test_a_linear_map_before_is_composed_where_that_saves_operations(rows, composed):
    mlp = make(2, True, True, True)
    x = torch.randn(rows, 8, dtype=torch.float64, requires_grad=True)
    mixing = torch.randn(8, 5, dtype=torch.float64, requires_grad=True)
    assert (mlp._mixed(x, mixing)[2] is None) is composed
    z, g = mlp.value_and_gradient(x, mixing)
    expected_z, inner = mlp.value_and_gradient(x @ mixing)
    expected_g = inner @ mixing.T
    torch.testing.assert_close(z, expected_z, rtol=0, atol=1e-12)
    torch.testing.assert_close(mlp(x, mixing), expected_z, rtol=0, atol=1e-12)
    torch.testing.assert_close(g, expected_g, rtol=0, atol=1e-12)
    inputs = [x, mixing, *mlp.parameters()]
    actual, expected = (
        torch.autograd.grad((a.square().sum() + b.sin().sum()), inputs)
        for a, b in ((z, g), (expected_z, expected_g))
    )
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("final", [True, False])
def test_gradient_in_inference_mode_is_the_same(final):
    mlp = make(2, True, final, True)
    x = torch.randn(3, 5, dtype=torch.float64)
    z, g = mlp.value_and_gradient(x)
    with torch.inference_mode():
        z_inference, g_inference = mlp.value_and_gradient(x)
    assert torch.equal(z, z_inference)
    assert torch.equal(g, g_inference)
    assert g.abs().max() > 1e-3


def test_forward_is_linear_norm_activation_in_this_order():
    mlp = make(2, True, False, True)
    x = torch.randn(3, 5, dtype=torch.float64)
    first, last = mlp.stages
    hidden = x @ first.linear.weight.T + first.linear.bias
    spread = ((hidden - hidden.mean(-1, keepdim=True)) ** 2).mean(-1, keepdim=True)
    hidden = (hidden - hidden.mean(-1, keepdim=True)) / (spread + 1e-6).sqrt()
    hidden = hidden * first.norm.weight + first.norm.bias
    hidden = hidden / (1 + torch.exp(-hidden))
    expected = hidden @ last.linear.weight.T + last.linear.bias
    torch.testing.assert_close(mlp(x), expected, rtol=0, atol=1e-13)
