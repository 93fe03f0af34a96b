import pytest
import torch

from tracegrad.nn.component_first.linear import EquivariantLinear


@pytest.mark.parametrize("bias", [True, False])
def test_one_matrix_per_degree_with_all_derivatives(bias):
    linear = EquivariantLinear(2, 3, 4, bias=bias).double()
    x = torch.randn(9, 2, 3, dtype=torch.float64, requires_grad=True)
    if bias:
        linear.bias.data.normal_()
    expected = torch.cat([x[d**2 : (d + 1) ** 2] @ linear.weight[d] / 3**0.5 for d in range(3)])
    if bias:
        expected = expected + torch.cat([linear.bias.expand(1, 2, 4), expected.new_zeros(8, 2, 4)])
    torch.testing.assert_close(linear(x), expected, rtol=0, atol=1e-14)

    parameters = dict(linear.named_parameters())

    def run(x, *values):
        return torch.func.functional_call(linear, dict(zip(parameters, values, strict=True)), (x,))

    inputs = [x, *parameters.values()]
    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)


def test_frozen_weights_and_inputs_without_gradient():
    linear = EquivariantLinear(1, 2, 2).double()
    x = torch.randn(4, 3, 2, dtype=torch.float64)
    linear(x).sum().backward()
    assert linear.weight.grad.abs().max() > 0
    linear.requires_grad_(False)
    x.requires_grad_()
    linear(x).sum().backward()
    assert x.grad.abs().max() > 0


def test_transposed_inputs_and_no_items():
    linear = EquivariantLinear(1, 2, 3).double()
    x = torch.randn(3, 4, 2, dtype=torch.float64).transpose(0, 1)
    torch.testing.assert_close(linear(x), linear(x.contiguous()), rtol=0, atol=1e-15)
    assert linear(x[:, :0]).shape == (4, 0, 3)
