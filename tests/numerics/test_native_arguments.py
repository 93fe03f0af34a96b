"""Kernels refuse arguments with which they would access memory outside of their tensors, before they run."""

from collections.abc import Callable
from contextlib import suppress

import pytest
import torch
from e3nn.o3 import Irrep
from torch import Tensor
from tracegrad.nn.component_first.coupling_kernel import CouplingPaths, couple

from tracegrad.nn.item_first import shell_pairs_kernel
from tracegrad.nn.item_first.edge_frame import EdgeFrame
from tracegrad.nn.item_first.graph_norm_kernel import centred
from tracegrad.nn.item_first.shell_pairs_kernel import ExpansionMaps, SparseMap
from tracegrad.ops import native
from tracegrad.ops.errors import OperatorArgumentError, OperatorIndexError

pytestmark = pytest.mark.usefixtures("unchecked")

Arguments = dict[str, Tensor]


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def no_plain(*_: Tensor) -> Tensor:
    raise AssertionError("the plain form was called")


COUPLING = CouplingPaths((((1, 1, 0), 0.5), ((1, 1, 2), 0.7)), (1, 1, 2), shared=False)
ENTRIES = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 3, 1, 2]), normal(4)
BACK = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 2, 0]), normal(4)
TURNED = EdgeFrame(normal(6, 3)).rotation(Irrep("1o"))


def run_couple(a, b, weight, of_a, of_b, output, row):
    return couple(COUPLING, a, b, [(weight, row)], (of_a, of_b, output), 5, no_plain)


def run_norm(x, weight, plus, rotation, batch, counts):
    return centred(x, weight, plus, rotation, batch, counts, no_plain)


def run_expand(a, b, rotation):
    return shell_pairs_kernel.expand(
        ExpansionMaps(SparseMap.of(*ENTRIES), SparseMap.of(*BACK)), [a, b], [rotation, None], no_plain
    )


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
    "centred": (
        run_norm,
        {
            "x": normal(6, 3, 5),
            "weight": normal(5),
            "plus": normal(6, 3, 5),
            "rotation": TURNED,
            "batch": indices(0, 0, 1, 1, 1, 0),
            "counts": normal(2).abs(),
        },
    ),
    "expand": (run_expand, {"a": normal(6, 3, 1), "b": normal(6, 1, 1), "rotation": TURNED}),
}
EACH = [(case, name) for case, (_, arguments) in CASES.items() for name in arguments]
# Other sizes that fit: items that no index refers to.
HARMLESS = {
    "couple": {"a": "longer 1", "b": "longer 1", "weight": "longer 0"},
    "centred": {"counts": "longer 0"},
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
    assert ours


@pytest.mark.parametrize(("case", "name"), EACH, ids=["-".join(e) for e in EACH])
def test_indices_out_of_range_are_refused(case, name):
    run, arguments = CASES[case]
    if arguments[name].is_floating_point():
        return
    for value in (-1, 5, 2**31, 2**32, 2**63 - 1, -(2**63)):
        wrong = arguments[name].clone()
        wrong.view(-1)[-1] = value
        with pytest.raises(OperatorIndexError):
            run(**copies(arguments) | {name: wrong})
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


def test_maps_whose_entries_do_not_fit_are_refused():
    row, column, value = ENTRIES
    for wrong in ((row - 1, column, value), (row * 2, column, value), (row, column - 1, value)):
        with pytest.raises(OperatorIndexError):
            SparseMap.of(*wrong)
    for wrong in ((row[:-1], column, value), (row, column, value[1:])):
        with pytest.raises(OperatorArgumentError, match="each entry has one"):
            SparseMap.of(*wrong)
    with pytest.raises(OperatorArgumentError, match="not adjacent"):
        SparseMap.of(row[[0, 2, 1, 3]], column, value)
    with pytest.raises(OperatorIndexError):
        SparseMap.of(row, column + 2**31, value)


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
