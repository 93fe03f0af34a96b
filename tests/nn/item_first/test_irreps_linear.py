import pytest
import torch
from e3nn import o3
from e3nn.o3 import Irreps

from tracegrad.nn.item_first.irreps_linear import IrrepsLinear, KindLinear

IN, OUT = Irreps("3x0e+2x1o+4x2e+2x0o+1x1e"), Irreps("2x0o+4x0e+3x1o+2x3o+1x2e")
NORMALISATIONS = pytest.mark.parametrize("normalisation", ["element", "path"])


def in_double(make):
    previous = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # e3nn stores its tables in the default dtype
    try:
        return make()
    finally:
        torch.set_default_dtype(previous)


def split(flat: torch.Tensor, irreps: Irreps) -> list[torch.Tensor]:
    parts = flat.split([entry.dim for entry in irreps], dim=1)
    return [p.view(len(flat), mul, ir.dim).mT for p, (mul, ir) in zip(parts, irreps, strict=True)]


def joined(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([part.mT.flatten(1) for part in parts], dim=1)


def by_input(linear: IrrepsLinear) -> list[torch.Tensor]:
    """Weights in the order of e3nn: by the input."""
    sources = [source for source in linear.sources if source is not None]
    return [linear.weights[k] for k in sorted(range(len(sources)), key=sources.__getitem__)]


@NORMALISATIONS
@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_linear_map_of_e3nn(bias, normalisation):
    linear = IrrepsLinear(IN, OUT, bias=bias).double()
    plain = in_double(lambda: o3.Linear(IN, OUT, biases=bias, path_normalization=normalisation))
    plain.weight.data = torch.cat([weight.data.flatten() for weight in by_input(linear)])
    if bias:
        linear.bias.data = torch.randn(4, dtype=torch.float64)
        plain.bias.data = linear.bias.data.clone()
    x = torch.randn(5, IN.dim, dtype=torch.float64)
    actual = linear(split(x, IN))
    torch.testing.assert_close(joined(actual), plain(x), rtol=0, atol=1e-13)
    assert actual[3].shape == (5, 7, 2)
    assert actual[3].abs().max() == 0
    assert (linear.bias is None) == (not bias)


def test_no_bias_without_scalars():
    linear = IrrepsLinear(Irreps("2x1o"), Irreps("3x1o"), bias=True)
    assert linear.bias is None
    assert len(list(linear.parameters())) == 1


@NORMALISATIONS
@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_kinds_equal_a_tensor_product_with_one_hot_vectors(count, normalisation):
    linear = KindLinear(IN, OUT, count).double()
    one_hot_irreps = Irreps([(count, "0e")])
    plain = in_double(
        lambda: o3.FullyConnectedTensorProduct(IN, one_hot_irreps, OUT, path_normalization=normalisation)
    )
    # [input channel, kind, output channel] for each path
    weights = [torch.stack(list(w), dim=1) for w in zip(*map(by_input, linear.linears), strict=True)]
    plain.weight.data = torch.cat([weight.data.flatten() for weight in weights])
    kind = torch.randint(count, (11,))
    kind[kind == 1] = 0  # a kind of which there is none
    x = torch.randn(11, IN.dim, dtype=torch.float64, requires_grad=True)
    actual = joined(linear(split(x, IN), kind))
    expected = plain(x, torch.nn.functional.one_hot(kind, count).double())
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-13)
    direction = torch.randn_like(actual)
    (ours,), (theirs,) = (torch.autograd.grad((y * direction).sum(), x) for y in (actual, expected))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)


@pytest.mark.parametrize("bias", [True, False])
def test_what_is_added(bias):
    """Also to irreps that the input lacks, which are zero otherwise."""
    linear = IrrepsLinear(IN, OUT, bias=bias).double()
    x = split(torch.randn(5, IN.dim, dtype=torch.float64), IN)
    plus = [part if k % 3 else None for k, part in enumerate(split(torch.randn(5, OUT.dim).double(), OUT))]
    for found, other, expected in zip(linear(x, plus), plus, linear(x), strict=True):
        torch.testing.assert_close(found, expected if other is None else expected + other)
