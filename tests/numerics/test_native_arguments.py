"""Kernels refuse arguments with which they would access memory outside of their tensors, before they run."""

from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pytest
import torch
from e3nn.o3 import Irrep
from torch import Tensor
from tracegrad.nn.component_first.coupling_kernel import CouplingPaths, couple

from tracegrad.hamiltonian.assembly_kernel import assemble_with_kernel
from tracegrad.hamiltonian.block_errors import block_errors
from tracegrad.nn.invariant.normed_silu import normed_silu
from tracegrad.nn.invariant.pair_kernel import pull_pairs
from tracegrad.nn.invariant.term_kernel import add_inner, add_inner_with_derivative, crossed, crossed_with_sum
from tracegrad.nn.item_first.edge_frame import EdgeFrame
from tracegrad.nn.item_first.edge_rows import EdgeEndpoints, IrrepPlacement, from_rows, to_rows
from tracegrad.nn.item_first.edge_weights_kernel import Submatrices, Submatrix, assembled
from tracegrad.ops import native
from tracegrad.ops.errors import OperatorArgumentError, OperatorIndexError

pytestmark = pytest.mark.usefixtures("unchecked")

Arguments = dict[str, Tensor]


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def no_plain(*_: Tensor) -> Tensor:
    raise AssertionError("the plain form was called")


COUPLING = CouplingPaths((((1, 1, 0), 0.5), ((1, 1, 2), 0.7)), (1, 1, 2), shared=False)
SUBMATRICES = Submatrices([(3, 4)], [(Submatrix(0, 0, 0, 3, 4, 0, 12, 0, 4, 2), normal(2))])
TURNED = EdgeFrame(normal(6, 3)).rotation(Irrep("1o"))


def run_couple(a, b, weight, of_a, of_b, output, row):
    return couple(COUPLING, a, b, [(weight, row)], (of_a, of_b, output), 5, no_plain)


def run_spread(x, rotation, ends):
    placement = IrrepPlacement(((0, 0), (1, 0)), rotation, (EdgeEndpoints(ends, 4),))
    return to_rows([placement], [x], [(1, 2), (2, 2)], 6)


def run_collect(axial, around, factor, rotation, ends):
    placement = IrrepPlacement(((0, 0), (1, 0)), rotation, (EdgeEndpoints(ends, 4),), 1)
    return from_rows([placement], [axial, around], [2], factor)


def run_silu(x, weight, bias, g):
    y, pull = normed_silu(x, weight, bias, 1e-5)
    return y, pull(g)


def run_errors(blocks, labels, present, ends):
    return block_errors(blocks, labels, present, ends, ["mse", "mae"])


def run_assemble(on_site, pairs, slots, starts, spans):
    arrays = (x.numpy() for x in (slots, starts, spans))
    return assemble_with_kernel(on_site, pairs, *arrays, 4, [np.zeros(10)])


def indices(*values: int) -> Tensor:
    return torch.tensor(values)


# Every operator with arguments that fit.
CASES: dict[str, tuple[Callable, Arguments]] = {
    "couple": (
        run_couple,
        {
            "a": normal(4, 3, 9),
            "b": normal(4, 4, 9),
            "weight": normal(5, 2, 9),
            "of_a": indices(0, 1, 2, 2, 0, 1),
            "of_b": indices(3, 1, 2, 2, 0, 1),
            "output": indices(4, 1, 2, 2, 0, 1),
            "row": indices(0, 4, 2, 2, 0, 1),
        },
    ),
    "to_rows": (
        run_spread,
        {"x": normal(4, 3, 2), "rotation": TURNED, "ends": indices(0, 1, 2, 3, 3, 0)},
    ),
    "from_rows": (
        run_collect,
        {
            "axial": normal(6, 1, 2),
            "around": normal(6, 2, 2),
            "factor": normal(6, 3),
            "rotation": TURNED,
            "ends": indices(0, 1, 2, 3, 3, 0),
        },
    ),
    "assembled": (
        lambda w1, w2: assembled(SUBMATRICES, w1, w2, no_plain),
        {"w1": normal(24), "w2": normal(8)},
    ),
    "normed_silu": (
        run_silu,
        {"x": normal(4, 7), "weight": normal(7), "bias": normal(7), "g": normal(4, 7)},
    ),
    "pull_pairs": (
        lambda a, b, g: pull_pairs([a, b], [1.0, 0.5], g),
        {"a": normal(3, 5, 4), "b": normal(1, 5, 2), "g": normal(5, 13)},
    ),
    "add_inner": (
        lambda u, x: add_inner(u, x, 0.5),
        {"u": normal(5, 9), "x": normal(3, 5, 2, 9)},
    ),
    "add_inner_with_derivative": (
        lambda u, derivative, x, y: add_inner_with_derivative(u, derivative, x, y, 0.5),
        {"u": normal(5, 9), "derivative": normal(5, 9), "x": normal(3, 5, 2, 9), "y": normal(3, 5, 2, 9)},
    ),
    "crossed": (
        lambda out, x, factor: crossed(out, x, factor, 0.5),
        {"out": normal(3, 5, 2, 9), "x": normal(3, 5, 2, 9), "factor": normal(5, 9)},
    ),
    "crossed_with_sum": (
        lambda out, x, y, factor, factor_x: crossed_with_sum(out, x, y, factor, factor_x, 0.5),
        {
            "out": normal(2, 3, 5, 2, 9),
            "x": normal(3, 5, 2, 9),
            "y": normal(3, 5, 2, 9),
            "factor": normal(5, 9),
            "factor_x": normal(5, 9),
        },
    ),
    "block_errors": (
        run_errors,
        {
            "blocks": normal(6, 4, 4),
            "labels": normal(6, 4, 4),
            "present": normal(3, 4),
            "ends": torch.tensor([[0, 1, 2, 2, 1, 0], [1, 0, 0, 2, 1, 0]]),
        },
    ),
    "assemble_with_kernel": (
        run_assemble,
        {
            "on_site": normal(2, 3, 3),
            "pairs": normal(2, 3, 3),
            "slots": torch.tensor([[0, 1, -1], [1, -1, 0]]),
            "starts": indices(0, 2),
            "spans": torch.tensor([[0, 2, 0]]),
        },
    ),
}
EACH = [(case, name) for case, (_, arguments) in CASES.items() for name in arguments]
# Other sizes that fit: items that no index refers to, components of a feature of one irrep, columns of rows without
# a feature, weights that no submatrix uses.
HARMLESS = {
    "couple": {"a": "longer 1", "b": "longer 1", "weight": "longer 0"},
    "to_rows": {"x": "shorter 2"},
    "from_rows": {"axial": "longer 2", "around": "longer 2", "factor": "longer 1"},
    "assembled": {"w1": "longer 0", "w2": "longer 0"},
    "pull_pairs": {"a": "longer 0, shorter 0", "b": "longer 0"},
    "add_inner": {"x": "longer 0, shorter 0, none"},
    "normed_silu": {"x": "rank up"},
    "block_errors": {"present": "longer 0"},
    "assemble_with_kernel": {"pairs": "longer 0"},
}


def others(x: Tensor) -> dict[str, Tensor]:
    """Tensors of other shapes."""
    tensors = {"rank up": x[None], "none": x[:0]}
    if x.ndim:
        tensors["rank down"] = x.reshape(-1) if x.ndim > 1 else x[0]
    for dim in range(x.ndim):
        tensors[f"shorter {dim}"] = x.narrow(dim, 0, x.shape[dim] - 1)
        tensors[f"longer {dim}"] = torch.cat([x, x.narrow(dim, 0, 1)], dim)
    return tensors


def copies(arguments: Arguments) -> Arguments:
    return {name: x.clone() for name, x in arguments.items()}


@pytest.mark.parametrize("case", CASES)
def test_arguments_that_fit_are_taken(case):
    run, arguments = CASES[case]
    before = native.used()
    run(**copies(arguments))
    assert native.used() > before


@pytest.mark.parametrize(("case", "name"), EACH, ids=["-".join(e) for e in EACH])
def test_other_shapes_are_refused(case, name):
    """With a Python exception; it is a OperatorArgumentError unless torch raises before."""
    run, arguments = CASES[case]
    harmless = HARMLESS.get(case, {}).get(name, "").split(", ")
    ours = 0
    for kind, wrong in others(arguments[name]).items():
        if kind in harmless or wrong.shape == arguments[name].shape:
            continue
        try:
            run(**copies(arguments) | {name: wrong.contiguous()})
        except (ValueError, IndexError, RuntimeError, TypeError) as error:
            ours += isinstance(error, OperatorArgumentError)
        else:
            pytest.fail(kind)
    assert ours or (case, name) == ("normed_silu", "g")


@pytest.mark.parametrize(("case", "name"), EACH, ids=["-".join(e) for e in EACH])
def test_indices_out_of_range_are_refused(case, name):
    run, arguments = CASES[case]
    if arguments[name].is_floating_point():
        return
    for value in (-1 if name != "slots" else -2, 5, 2**31, 2**32, 2**63 - 1, -(2**63)):
        wrong = arguments[name].clone()
        wrong.view(-1)[-1] = value
        with pytest.raises(OperatorIndexError):
            run(**copies(arguments) | {name: wrong})
    if case != "assemble_with_kernel":
        with pytest.raises(OperatorArgumentError, match="whole numbers"):
            run(**copies(arguments) | {name: arguments[name].double()})


@pytest.mark.parametrize(("case", "name"), EACH, ids=["-".join(e) for e in EACH])
def test_other_dtypes_and_devices_do_no_harm(case, name):
    """The plain form is used, or they are refused."""
    run, arguments = CASES[case]
    if not arguments[name].is_floating_point():
        return
    x = arguments[name]
    for wrong in (x.float(), x.to(torch.complex128), x.long(), x.to("meta"), x.to_sparse()):
        with suppress(AssertionError, RuntimeError, TypeError, ValueError, NotImplementedError):
            run(**copies(arguments) | {name: wrong})


@pytest.mark.parametrize("case", CASES)
def test_numbers_that_are_not_finite_and_gradients_do_no_harm(case):
    run, arguments = CASES[case]
    for value in (torch.nan, torch.inf, -torch.inf):
        run(
            **{
                name: x.clone().fill_(value) if x.is_floating_point() else x.clone()
                for name, x in arguments.items()
            }
        )


def test_gradients_of_views_and_signs_reach_kernels_as_they_are():
    """Expanded, transposed and negated gradients of an operator whose kernel needs contiguous ones."""
    _, arguments = CASES["couple"]
    inputs = {k: v.clone().requires_grad_() if v.is_floating_point() else v for k, v in arguments.items()}
    leaves = [x for x in inputs.values() if x.requires_grad]
    out = run_couple(**inputs)
    parts = torch.randn(*out.shape, 2, dtype=torch.float64)
    negated = torch.view_as_complex(parts).conj().imag
    assert negated.is_neg()
    for gradient in (
        out.new_ones(1, 1, 1).expand(out.shape),
        normal(*out.shape[::-1]).permute(2, 1, 0),
        negated,
    ):
        actual = torch.autograd.grad(out, leaves, gradient, retain_graph=True)
        expected = torch.autograd.grad(
            out, leaves, gradient.resolve_neg().contiguous().clone(), retain_graph=True
        )
        for a, b in zip(actual, expected, strict=True):
            assert torch.equal(a, b)


def test_an_index_that_was_overwritten_is_refused():
    _, arguments = CASES["couple"]
    inputs = copies(arguments) | {"a": arguments["a"].clone().requires_grad_()}
    out = run_couple(**inputs)
    inputs["of_a"][0] = 1_000_000
    with pytest.raises(OperatorArgumentError, match="index of a: overwritten since it was checked"):
        out.sum().backward()


def test_submatrices_that_lie_outside_or_overlap_are_refused():
    good = Submatrix(0, 0, 0, 3, 4, 0, 12, 0, 4, 2)
    for change in (
        {"matrix": 1},
        {"matrix": -1},
        {"row": 1},
        {"column": -1},
        {"rows": 4},
        {"start_1": -1},
        {"stride_2": -4},
        {"paths": 3},
        {"paths": 0},
    ):
        with pytest.raises(OperatorArgumentError, match="must lie within matrices"):
            Submatrices([(3, 4)], [(Submatrix(**(good.__dict__ | change)), normal(2))])
    with pytest.raises(OperatorArgumentError, match="overlaps another submatrix"):
        Submatrices([(3, 4)], [(good, normal(2)), (good, normal(2))])


def test_slots_that_do_not_exist_or_overlap_are_refused():
    x, rows = normal(6, 3, 2), [normal(6, 1, 4), normal(6, 2, 4)]
    for slots in (
        ((0, 3), None),
        ((0, -1), None),
        ((2, 0), None),
        ((-1, 0), None),
        ((1, 0), None),
        (None, (0, 0)),
    ):
        with pytest.raises(OperatorArgumentError, match="the rows have the shapes"):
            to_rows([IrrepPlacement(slots)], [x], [(1, 4), (2, 4)], 6)
        with pytest.raises(OperatorArgumentError, match="the rows have the shapes"):
            from_rows([IrrepPlacement(slots)], rows, [2])
    with pytest.raises(OperatorArgumentError, match="belongs to two features"):
        to_rows([IrrepPlacement(((0, 0), None)), IrrepPlacement(((0, 1), None))], [x, x], [(1, 4)], 6)
    for factor in (-1, 2, 2**40):
        with pytest.raises(OperatorArgumentError, match="factors"):
            from_rows([IrrepPlacement(((0, 0), None), None, (), factor)], rows, [2], normal(6, 3))
    both = (
        EdgeEndpoints(torch.zeros(6, dtype=torch.long), 4),
        EdgeEndpoints(torch.zeros(6, dtype=torch.long), 4),
    )
    with pytest.raises(OperatorArgumentError, match="two endpoints"):
        from_rows([IrrepPlacement(((0, 0), None), None, both)], rows, [2])


def test_c_types_are_declared():
    source = """
#include <cstdint>
extern "C" int number(int64_t x, double y, const int64_t* z) { return (x >> 40) * 10 + int(y) + (z ? 100 : 0); }
"""
    library = native.library(source, native.Function("number", "idp", fails=True))
    if library is None:
        pytest.skip("no compiler")
    assert library.number(5 << 40, 3, None) == 53
    for wrong in ((1.5, 0.0, None), (None, 0.0, None), (1, "0", None), (1, 0.0, 1.5), (1, 0.0)):
        with pytest.raises((TypeError, native.ctypes.ArgumentError)):
            library.number(*wrong)


def test_tensors_without_memory_are_refused():
    x = normal(3)
    x.untyped_storage().resize_(0)
    with pytest.raises(OperatorArgumentError, match=r"x: a tensor of shape .* without memory"):
        native.address("x", x, (3,), torch.float64)
    with pytest.raises(
        OperatorArgumentError, match="not contiguous; a kernel needs a contiguous one of shape"
    ):
        native.address("x", normal(4, 3).T, (3, 4), torch.float64)
