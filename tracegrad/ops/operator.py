"""Operators of torch with several forms: one definition, and the dispatcher of torch chooses the form.

An operator is a function of tensors with a name, ``torch.ops.tracegrad.NAME``. Its forms are

- *plain*: the formula in torch. It runs on every device, is differentiable to any order, and is what the tests
  compare the other forms with;
- *cpu*: a C++ kernel (`tracegrad.ops.native`);
- *gpu*: Triton kernels (`tracegrad.ops.gpu`).

A first derivative is an operator, too, ``NAME_gradient``, with the same forms. `torch.compile` sees one node for
each. The plain form stands in, as ordinary operations of torch, for derivatives of derivatives, in forward mode,
under transformations such as those of torch.func, without a compiler or without Triton, for numbers that are neither
float32 nor float64, and where an operator says that its kernels do not cover the arguments.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from tracegrad.ops import native
from tracegrad.ops.gpu import triton
from tracegrad.ops.plain_gradients import plain_gradients

NAMESPACE = "tracegrad"
LIBRARY = torch.library.Library(NAMESPACE, "DEF")
DTYPES = (torch.float32, torch.float64)  # of kernels
Form = Callable[..., Any]


@dataclass(frozen=True)
class OperatorArgument:
    """Name and type of an argument, as in a schema of torch."""

    name: str
    type: str
    is_tensor: bool = field(init=False)
    is_list: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_tensor", self.type in ("Tensor", "Tensor?"))
        object.__setattr__(self, "is_list", self.type in ("Tensor[]", "Tensor?[]"))


class Operator:
    """An operator and its forms.

    Args:
        name: below ``torch.ops.tracegrad``.
        arguments: as in a schema of torch, for example "Tensor x, Tensor? weight, int[] sizes, str key". All tensors
            are differentiable unless they are integers, also optional ones and those in lists.
        plain: the formula, a function of all arguments.
        outputs: new tensors with the shapes, dtypes and devices of the results, a function of all arguments; used
            by `torch.compile`.
        check: raises `OperatorArgumentError` if shapes or dtypes do not fit, a function of all arguments. It is
            called before kernels and those of the gradient; the plain form takes what torch takes.
        covers: whether the kernels and the gradient can take these arguments, a function of all of them. It sees
            shapes, devices and whether gradients are needed (``requires_grad``).
        prefers_plain: whether the plain form is as fast as the kernels for these arguments, a function of all of
            them. Gradients are then recorded as those of ordinary operations of torch, which costs less Python.
        results: number of results; None for a list, whose length depends on the arguments.
        linear: names of arguments that the gradient does not depend on. They are not kept for the backward pass,
            which gets zeros of the same shape.
        without_gradient: names of arguments whose gradients the kernels do not compute; where one of them is
            recorded or needed, the plain form is used.
        added: name of a list of tensors that are added to the results, one to each; their gradients are those of the
            results, so that kernels of the gradient are never asked for them.
    """

    def __init__(
        self,
        name: str,
        arguments: str,
        plain: Form,
        outputs: Form,
        *,
        check: Callable[..., None],
        covers: Callable[..., bool] | None = None,
        prefers_plain: Callable[..., bool] | None = None,
        results: int | None = 1,
        linear: Sequence[str] = (),
        without_gradient: Sequence[str] = (),
        added: str | None = None,
    ):
        self.name, self.plain, self.check, self.covers = name, plain, check, covers
        self.prefers_plain = prefers_plain
        self.results, self.added = results, frozenset([added] if added else [])
        self.linear, self.without_gradient = self.added.union(linear), frozenset(without_gradient)
        self.forms: dict[str, tuple[Form, Form | None]] = {}  # by device: the form and its gradient
        self.arguments = [OperatorArgument(*reversed(part.split())) for part in arguments.split(", ")]
        self._places = [k for k, argument in enumerate(self.arguments) if argument.is_tensor]
        self._without_gradient = [k for k, a in enumerate(self.arguments) if a.name in self.without_gradient]
        self._has_lists = any(argument.is_list for argument in self.arguments)
        several = "Tensor[]" if results is None else f"({', '.join(['Tensor'] * results)})"
        returned = "Tensor" if results == 1 else several
        derivative = f"{name}_gradient"
        tags = (torch.Tag.pt2_compliant_tag,)
        LIBRARY.define(f"{name}({arguments}) -> {returned}", tags=tags)
        LIBRARY.define(f"{derivative}(Tensor[] gradients, {arguments}, bool[] needed) -> Tensor[]", tags=tags)
        operators = getattr(torch.ops, NAMESPACE)
        self.forward, self.gradient = getattr(operators, name).default, getattr(operators, derivative).default
        torch.library.register_fake(f"{NAMESPACE}::{name}", outputs, lib=LIBRARY)
        torch.library.register_fake(f"{NAMESPACE}::{derivative}", self._gradient_outputs, lib=LIBRARY)
        methods = {"forward": staticmethod(self._forward), "backward": staticmethod(self._backward)}
        self._function: Any = type(f"{name}_function", (torch.autograd.Function,), methods)
        LIBRARY.impl(name, self._recorded, "Autograd", with_keyset=True)
        # Transformations of torch.func and batched gradients see the operations of the plain form.
        for key in ("CompositeExplicitAutograd", "FuncTorchDynamicLayerFrontMode", "Batched"):
            LIBRARY.impl(name, plain, key)
            LIBRARY.impl(derivative, self.plain_gradient, key)

    def __call__(self, *arguments: Any) -> Any:
        """The results for all arguments of the schema, in their order.

        Raises:
            OperatorArgumentError: shapes, dtypes or indices that do not fit.
        """
        return self.forward(*arguments)

    def register(self, device: str, form: Form, gradient: Form | None) -> None:
        """Add the form of a device; one for "CUDA" is used where Triton is installed.

        Args:
            device: "CPU" or "CUDA".
            form: a function of all arguments that returns new tensors, or None if a kernel cannot be compiled.
            gradient: a function of the gradients of the results (a list), all arguments, and for each tensor among
                them whether its gradient is needed. It returns a list of the gradients that are needed, or None if a
                kernel cannot be compiled. None: there is no kernel for any gradient.
        """
        self.forms[device] = form, gradient

        def run(*arguments: Any) -> Any:
            made = None
            if self._has_kernel(self.tensors(arguments), arguments):
                self.check(*arguments)
                made = form(*arguments)
            return self.plain(*arguments) if made is None else made

        LIBRARY.impl(self.name, run, device)
        if gradient is None:
            return

        def run_gradient(gradients: list[Tensor], *arguments: Any) -> list[Tensor]:
            *inputs, needed = arguments
            made, absent = None, self.flags(self.without_gradient, self.rest(inputs))
            exists = not any(a and b for a, b in zip(absent, needed, strict=True))
            if exists and self._has_kernel(self.tensors(inputs), inputs):
                self.check(*inputs)
                made = gradient(gradients, *arguments)
            return self.plain_gradient(gradients, *arguments) if made is None else made

        LIBRARY.impl(f"{self.name}_gradient", run_gradient, device)

    def plain_gradient(self, gradients: list[Tensor], *arguments: Any) -> list[Tensor]:
        """The gradients that are needed, by automatic differentiation of the plain form."""
        *inputs, needed = arguments
        rest = self.rest(inputs)
        with torch.no_grad():
            made = plain_gradients(
                lambda *x: self.plain(*self._whole(x, rest)), self.tensors(inputs), gradients, needed
            )
        return [x for x in made if x is not None]

    def tensors(self, arguments: Sequence[Any]) -> list[Tensor | None]:
        """All tensors among the arguments, and None for optional ones that are missing."""
        if not self._has_lists:
            return [arguments[k] for k in self._places]
        flat: list[Tensor | None] = []
        for argument, value in zip(self.arguments, arguments, strict=True):
            if argument.is_tensor:
                flat.append(value)
            elif argument.is_list:
                flat.extend(value)
        return flat

    def rest(self, arguments: Sequence[Any]) -> list[Any]:
        """What `tensors` leaves out: the lengths of lists of tensors, and all values that are no tensors."""
        if not self._has_lists:
            rest = list(arguments)
            for k in self._places:
                rest[k] = None
            return rest
        return [
            None if argument.is_tensor else len(value) if argument.is_list else value
            for argument, value in zip(self.arguments, arguments, strict=True)
        ]

    def _whole(self, tensors: Sequence[Any], rest: Sequence[Any]) -> list[Any]:
        """The arguments from `tensors` and `rest`."""
        if not self._has_lists:
            arguments = list(rest)
            for k, x in zip(self._places, tensors, strict=True):
                arguments[k] = x
            return arguments
        remaining = iter(tensors)
        arguments = []
        for argument, value in zip(self.arguments, rest, strict=True):
            if argument.is_tensor:
                arguments.append(next(remaining))
            elif argument.is_list:
                arguments.append([next(remaining) for _ in range(value)])
            else:
                arguments.append(value)
        return arguments

    def _has_kernel(self, tensors: Sequence[Tensor | None], arguments: Sequence[Any]) -> bool:
        first = next(x for x in tensors if x is not None and x.is_floating_point())
        if first.dtype not in DTYPES or (self.covers is not None and not self.covers(*arguments)):
            return False
        if torch.is_grad_enabled() and self._records_without_gradient(arguments):
            return False
        device = first.device.type
        if device == "cuda":
            return native.switched_on() and triton() is not None
        return device != "cpu" or native.available()

    def _records_without_gradient(self, arguments: Sequence[Any]) -> bool:
        """Whether a gradient is recorded of one of the arguments ``without_gradient``."""
        for k in self._without_gradient:
            value = arguments[k]
            tensors = value if self.arguments[k].is_list else (value,)
            if any(x is not None and x.requires_grad for x in tensors):
                return True
        return False

    def _recorded(self, keys: Any, *arguments: Any) -> Any:
        """The operator where gradients may be recorded; ``keys`` are the keys of this call of the dispatcher."""
        tensors = self.tensors(arguments)
        in_forward_mode = forward_ad._current_level >= 0  # as `forward_ad.unpack_dual` asks, for each tensor
        as_fast = self.prefers_plain is not None and self.prefers_plain(*arguments)
        if in_forward_mode or as_fast or not self._has_kernel(tensors, arguments):
            return self.plain(*arguments)
        if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors):
            made = self._function.apply(keys, self.rest(arguments), *tensors)
            return list(made) if self.results is None else made
        return self.forward.redispatch(keys & torch._C._after_autograd_keyset, *arguments)

    def _forward(self, ctx: Any, keys: Any, rest: list[Any], *tensors: Tensor | None) -> Any:
        ctx.rest = rest
        kept: Sequence[Tensor | None] = tensors
        if self.linear:
            ctx.shapes = [None if x is None else x.shape for x in tensors]
            linear = self.flags(self.linear, rest)
            kept = [None if flag else x for x, flag in zip(tensors, linear, strict=True)]
        ctx.save_for_backward(*kept)
        made = self.forward.redispatch(keys & torch._C._after_autograd_keyset, *self._whole(tensors, rest))
        return tuple(made) if self.results is None else made

    def _backward(self, ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        needed = list(ctx.needs_input_grad[2:])
        if not self.added:
            return None, None, *self._derivatives(ctx, gradients, needed)
        # The gradients of the results are those of what was added to them.
        added, of_results = self.flags(self.added, ctx.rest), iter(gradients)
        passed = [next(of_results) if is_added else None for is_added in added]
        passed = [x if flag else None for x, flag in zip(passed, needed, strict=True)]
        needed = [flag and not is_added for flag, is_added in zip(needed, added, strict=True)]
        made = self._derivatives(ctx, gradients, needed)
        return None, None, *[x if y is None else y for x, y in zip(made, passed, strict=True)]

    def _derivatives(
        self, ctx: Any, gradients: Sequence[Tensor], needed: list[bool]
    ) -> Sequence[Tensor | None]:
        """For each of `tensors` its gradient, or None where it is not needed."""
        if not any(needed):
            return [None] * len(needed)
        tensors = ctx.saved_tensors
        if self.linear:
            tensors = [
                gradients[0].new_zeros(()).expand(shape) if x is None and shape is not None else x
                for x, shape in zip(tensors, ctx.shapes, strict=True)
            ]
        if torch.is_grad_enabled():
            return plain_gradients(
                lambda *x: self.plain(*self._whole(x, ctx.rest)), tensors, gradients, needed
            )
        made = iter(self.gradient(list(gradients), *self._whole(tensors, ctx.rest), needed))
        return [next(made) if flag else None for flag in needed]

    def flags(self, names: frozenset[str], rest: Sequence[Any]) -> list[bool]:
        """For each of `tensors` whether it belongs to an argument with one of these names; ``rest`` as in `rest`."""
        flags: list[bool] = []
        for argument, value in zip(self.arguments, rest, strict=True):
            if argument.is_tensor or argument.is_list:
                flags += [argument.name in names] * (value if argument.is_list else 1)
        return flags

    def _gradient_outputs(self, gradients: list[Tensor], *arguments: Any) -> list[Tensor]:
        *inputs, needed = arguments
        return [
            x.new_empty(x.shape)
            for x, flag in zip(self.tensors(inputs), needed, strict=True)
            if flag and x is not None
        ]
