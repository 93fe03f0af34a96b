import math
from itertools import accumulate

import pytest
import torch
from e3nn.o3 import Irreps

from tracegrad.nn.item_first.edge_frame import EdgeFrame
from tracegrad.nn.item_first.edge_product import EdgeProduct
from tracegrad.nn.item_first.so2_linear import SO2Linear, so2_slots
from tracegrad.ops.edge_rotation.tables import generators, is_natural
from tracegrad.ops.edge_rows.from_rows import from_rows
from tracegrad.ops.edge_rows.layout import RowFeature, RowLayout
from tracegrad.ops.edge_rows.to_rows import to_rows

INPUTS, OUTPUTS, SCALARS = [3, 2, 4, 1], [2, 3, 1, 2], 3
MMAX = pytest.mark.parametrize("mmax", [0, 2, 3])


def layout(channels: list[int], mmax: int) -> RowLayout:
    slots, shapes = so2_slots(channels, mmax)
    return RowLayout(tuple(shapes), tuple(map(RowFeature, slots, channels)))


def applied(
    linear: SO2Linear, x: list[torch.Tensor], outputs: list[int]
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The map of features in the frames of the edges."""
    mmax = len(linear.pairs)
    rows, scalars = linear(to_rows(layout([part.shape[2] for part in x], mmax).key, x, [], [], len(x[0])))
    return from_rows(layout(outputs, mmax).key, rows), scalars


def features(channels: list[int], items: int = 5) -> list[torch.Tensor]:
    return [
        torch.randn(items, 2 * degree + 1, count, dtype=torch.float64)
        for degree, count in enumerate(channels)
    ]


def random_map(mmax: int) -> SO2Linear:
    linear = SO2Linear(INPUTS, OUTPUTS, mmax, SCALARS).double()
    torch.nn.init.normal_(linear.middle.bias)
    return linear


@MMAX
def test_against_the_formula(mmax):
    linear, x = random_map(mmax), features(INPUTS)
    found, scalars = applied(linear, x, OUTPUTS)
    expected = [torch.zeros_like(part) for part in found]

    def side(parts: list[torch.Tensor], m: int) -> torch.Tensor:
        return torch.cat([parts[k][:, k + m] for k in range(abs(m), len(parts))], dim=1)

    def put(values: torch.Tensor, m: int) -> None:
        degrees = range(abs(m), len(OUTPUTS))
        for k, part in zip(degrees, values.split([OUTPUTS[k] for k in degrees], dim=1), strict=True):
            expected[k][:, k + m] = part

    middle = side(x, 0) @ linear.middle.weight.T + linear.middle.bias
    put(middle[:, : sum(OUTPUTS)], 0)
    torch.testing.assert_close(scalars, middle[:, sum(OUTPUTS) :], rtol=0, atol=1e-13)
    for m, pair in enumerate(linear.pairs, start=1):
        real, imaginary = pair.chunk(2, dim=1)
        put(side(x, m) @ real - side(x, -m) @ imaginary, m)
        put(side(x, -m) @ real + side(x, m) @ imaginary, -m)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


@MMAX
def test_rotations_about_the_edge_are_kept(mmax):
    linear, x = random_map(mmax), features(INPUTS)
    turns = [
        torch.matrix_exp(generators(degree)(x[0])[2] * 0.7)
        if degree
        else torch.ones(1, 1, dtype=torch.float64)
        for degree in range(len(INPUTS))
    ]
    reference, scalars = applied(linear, x, OUTPUTS)
    turned, same = applied(linear, [turn @ part for turn, part in zip(turns, x, strict=True)], OUTPUTS)
    torch.testing.assert_close(same, scalars, rtol=0, atol=1e-13)
    for a, b, turn in zip(turned, reference, turns, strict=True):
        torch.testing.assert_close(a, turn @ b, rtol=0, atol=1e-13)


def test_clebsch_gordan_weights_give_the_product_with_the_harmonics():
    """Irreps of unnatural parity are stored with exchanged components there, and come from Wi here."""
    inputs, output = Irreps("3x0e+2x1o+4x2e+1x3o"), Irreps("2x0e+1x1e+2x1o+3x2e+2x2o+1x3o+1x3e")
    product = EdgeProduct([inputs], output, 4).double()
    channels = [mul for mul, _ in inputs]
    outputs = [sum(mul for mul, ir in output if ir.l == degree) for degree in range(4)]
    linear = SO2Linear(channels, outputs, 3).double()
    for parameter in linear.parameters():
        torch.nn.init.zeros_(parameter)
    # First output channel of each irrep among those of its degree.
    starts = [sum(mul for mul, ir in output[:k] if ir.l == output[k].ir.l) for k in range(len(output))]
    shapes = [
        (sum(product.widths[i] for i in g.sources), sum(output[o].mul for o in g.targets))
        for g in product.groups
    ]
    ends = list(accumulate(map(math.prod, shapes), initial=0))
    flat = product.matrices().detach()
    for group, shape, begin in zip(product.groups, shapes, ends, strict=False):
        matrix, row = flat[begin : begin + math.prod(shape)].view(shape), 0
        for source in group.sources:
            width, column = product.widths[source], 0
            for target in group.targets:
                mul, ir = output[target]
                block = matrix[row : row + width, column : column + mul]
                u, w = sum(channels[group.m : source]), sum(outputs[group.m : ir.l]) + starts[target]
                if group.m == 0:
                    linear.middle.weight.data[w : w + mul, u : u + width] = block.T
                else:
                    pair = linear.pairs[group.m - 1].data
                    w += 0 if is_natural(ir.l, ir.p) else pair.shape[1] // 2
                    pair[u : u + width, w : w + mul] = block
                column += mul
            row += width
    frame = EdgeFrame(torch.randn(5, 3, dtype=torch.float64))
    x = features(channels)
    expected = product(x, torch.zeros(5, dtype=torch.long))
    found, _ = applied(linear, x, outputs)
    for (mul, ir), start, of_product in zip(output, starts, expected, strict=True):
        a = frame.to_global(found[ir.l][:, :, start : start + mul], ir.l, (-1) ** ir.l)
        torch.testing.assert_close(a, frame.to_global(of_product, ir.l, ir.p), rtol=0, atol=1e-12)
        assert of_product.abs().max() > 0.1
