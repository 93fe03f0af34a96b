"""Comparisons of the forms of an operator."""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from tracegrad.ops import native
from tracegrad.ops.errors import OperatorArgumentError
from tracegrad.ops.gpu import triton
from tracegrad.ops.operator import Operator

CASES = 16  # largest number of combinations of needed gradients that are compared


def needs_compiler() -> None:
    """Skip a test where there is no C++ compiler: it would compare the plain form with itself."""
    if native.library("int one() { return 1; }") is None:
        pytest.skip("no C++ compiler")


def needed_gradients(operator: Operator, arguments: Sequence[Any]) -> Iterator[list[bool]]:
    """Combinations of gradients, beginning with all of them."""
    flat = operator.tensors(arguments)
    absent = operator.flags(operator.added | operator.without_gradient, operator.rest(arguments))
    can = [x is not None and x.is_floating_point() and not flag for x, flag in zip(flat, absent, strict=True)]
    for flags in list(product((True, False), repeat=sum(can)))[:CASES]:
        chosen = iter(flags)
        needed = [possible and next(chosen) for possible in can]
        if any(needed):
            yield needed


def assert_forms_agree(
    operator: Operator,
    arguments: Sequence[Any],
    *,
    atol: float = 1e-12,
    devices: Sequence[str] = ("CPU", "CUDA"),
) -> None:
    """Values and gradients of the kernels are those of the plain form; Triton runs in its interpreter.

    Args:
        operator: with its forms.
        arguments: all of the schema; float64.
        atol: largest difference of a number from the plain form.
        devices: forms to compare.
    """
    arguments = list(map(detached, arguments))
    expected = operator.plain(*arguments)
    results = [expected] if operator.results == 1 else list(expected)
    gradients = [torch.randn_like(y) for y in results]
    for device in devices:
        if device == "CPU":
            needs_compiler()
        elif triton() is None:
            continue
        form, gradient = operator.forms[device]
        found = form(*arguments)
        assert found is not None, f"the form for {device} refused"
        close([found] if operator.results == 1 else found, results, atol)
        for needed in needed_gradients(operator, arguments):
            made = gradient(gradients, *arguments, needed)
            reference = operator.plain_gradient(gradients, *arguments, needed)
            if made is not None:  # otherwise the plain form is used
                close(made, reference, atol)


def detached(value: Any) -> Any:
    """The value, with tensors that need no gradient, also in a list."""
    if isinstance(value, list | tuple):
        return list(map(detached, value))
    return value.detach() if isinstance(value, Tensor) else value


def close(found: Sequence[Tensor], expected: Sequence[Tensor], atol: float) -> None:
    """All tensors agree."""
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=atol)


def assert_registered(operator: Operator, arguments: Sequence[Any]) -> None:
    """What `torch.library.opcheck` knows of: schema, autograd, fake tensors, tracing with dynamic shapes."""
    torch.library.opcheck(operator.forward, tuple(arguments))
    arguments = list(map(detached, arguments))
    made = operator(*arguments)
    gradients = [torch.randn_like(y) for y in ([made] if operator.results == 1 else made)]
    needed = next(
        flags
        for flags in needed_gradients(operator, arguments)
        if operator.forms["CPU"][1](gradients, *arguments, flags) is not None
    )
    torch.library.opcheck(operator.gradient, (gradients, *arguments, needed))


def assert_refuses_other_shapes(
    operator: Operator, arguments: Sequence[Any], *, harmless: Sequence[str] = ()
) -> None:
    """Each tensor of another shape is refused with an exception, before a kernel runs.

    Args:
        operator: with its forms.
        arguments: that fit.
        harmless: names of changes that fit as well, such as "w longer 0": argument, change and dimension.
    """
    arguments = list(map(detached, arguments))
    for k, (argument, value) in enumerate(zip(operator.arguments, arguments, strict=True)):
        for at, x in enumerate(value if argument.is_list else [value] if argument.is_tensor else []):
            for kind, wrong in other_shapes(x).items() if x is not None else ():
                if f"{argument.name} {kind}" in harmless or wrong.shape == x.shape:
                    continue
                changed = [*value[:at], wrong, *value[at + 1 :]] if argument.is_list else wrong
                others = (*arguments[:k], changed, *arguments[k + 1 :])
                try:
                    operator.check(*others)
                    operator(*others)
                except (ValueError, IndexError, RuntimeError, TypeError):
                    continue
                pytest.fail(f"{argument.name} {kind}")


def assert_refuses_other_dtypes(operator: Operator, arguments: Sequence[Any]) -> None:
    """A tensor of another dtype than the others is refused."""
    arguments = list(map(detached, arguments))
    for k, (argument, value) in enumerate(zip(operator.arguments, arguments, strict=True)):
        if argument.is_tensor and value is not None:
            wrong = value.float() if value.is_floating_point() else value.double()
            try:
                operator.check(*arguments[:k], wrong, *arguments[k + 1 :])
                operator(*arguments[:k], wrong, *arguments[k + 1 :])
            except (OperatorArgumentError, RuntimeError):
                continue
            pytest.fail(argument.name)


def other_shapes(x: Tensor) -> dict[str, Tensor]:
    """Tensors of other shapes."""
    tensors = {"rank up": x[None], "none": x[:0]} if x.ndim else {"rank up": x[None]}
    if x.ndim:
        tensors["rank down"] = x.reshape(-1) if x.ndim > 1 else x[0]
    for dim in range(x.ndim):
        tensors[f"shorter {dim}"] = x.narrow(dim, 0, x.shape[dim] - 1)
        tensors[f"longer {dim}"] = torch.cat([x, x.narrow(dim, 0, 1)], dim)
    return {kind: wrong.contiguous() for kind, wrong in tensors.items()}
