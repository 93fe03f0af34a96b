"""Operators of torch with several forms: one definition, and the dispatcher of torch chooses the form.

An operator is a function of tensors with a name, ``torch.ops.tracegrad.NAME``. Its forms are

- *plain*: the formula in torch. It runs on every device, is differentiable to any order, and is what the tests
  compare the other forms with;
- *cpu*: a C++ kernel (`tracegrad.ops.native`);
- *gpu*: Triton kernels.

A first derivative is an operator, too, ``NAME_gradient``, with the same forms. Derivatives of derivatives, and
transformations such as those of torch.func, use the plain form. `torch.compile` sees one node for an operator.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from tracegrad.ops import native
from tracegrad.ops.plain_gradients import plain_gradients

NAMESPACE = "tracegrad"
LIBRARY = torch.library.Library(NAMESPACE, "DEF")
Form = Callable[..., Any]


@dataclass(frozen=True)
class _Argument:
    """Name and type of an argument in a schema of torch."""

    name: str
    type: str

    @property
    def is_tensor(self) -> bool:
        return self.type in ("Tensor", "Tensor?")

    @property
    def is_list(self) -> bool:
        return self.type in ("Tensor[]", "Tensor?[]")


class Operator:
    """An operator and its forms.

    Args:
        name: below ``torch.ops.tracegrad``.
        arguments: as in a schema of torch, for example "Tensor x, Tensor? weight, int[] sizes, str key". Tensors in
            lists and optional tensors are differentiable, too.
        plain: the formula, a function of all arguments.
        outputs: new tensors with the shapes, dtypes and devices of the results, a function of all arguments; used
            by `torch.compile`.
        check: raises `OperatorArgumentError` if shapes or dtypes do not fit, a function of all arguments. It is
            called before the kernels of both devices and before those of the gradient.
        results: number of results.
        linear: names of arguments that the gradient does not depend on. They are not kept for the backward pass,
            which gets zeros of the same shape.
    """

    def __init__(
        self,
        name: str,
        arguments: str,
        plain: Form,
        outputs: Form,
        *,
        check: Callable[..., None],
        results: int = 1,
        linear: Sequence[str] = (),
    ):
        self.name, self.plain, self.check = name, plain, check
        self.results, self.linear = results, frozenset(linear)
        self.arguments = [_Argument(*reversed(part.split())) for part in arguments.split(", ")]
        returned = "Tensor" if results == 1 else f"({', '.join(['Tensor'] * results)})"
        tags = (torch.Tag.pt2_compliant_tag,)
        LIBRARY.define(f"{name}({arguments}) -> {returned}", tags=tags)
        LIBRARY.define(
            f"{name}_gradient(Tensor[] gradients, {arguments}, bool[] needed) -> Tensor[]", tags=tags
        )
        self._call = getattr(getattr(torch.ops, NAMESPACE), name).default
        self._gradient = getattr(getattr(torch.ops, NAMESPACE), f"{name}_gradient").default
        full = f"{NAMESPACE}::{name}"
        LIBRARY.impl(name, plain, "CompositeExplicitAutograd")
        LIBRARY.impl(f"{name}_gradient", self._plain_gradient, "CompositeExplicitAutograd")
        torch.library.register_fake(full, outputs, lib=LIBRARY)
        torch.library.register_fake(f"{full}_gradient", self._gradient_outputs, lib=LIBRARY)
        methods = {"forward": staticmethod(self._forward), "backward": staticmethod(self._backward)}
        self._function = type(f"{name}_function", (torch.autograd.Function,), methods)
        LIBRARY.impl(name, self._recorded, "Autograd", with_keyset=True)
        # Transformations of torch.func and batched gradients see the operations of the plain forms.
        for key in ("FuncTorchDynamicLayerFrontMode", "Batched"):
            LIBRARY.impl(name, plain, key)
            LIBRARY.impl(f"{name}_gradient", self._plain_gradient, key)

    def __call__(self, *arguments: Any) -> Any:
        """The results for all arguments of the schema, in their order.

        Raises:
            OperatorArgumentError: shapes, dtypes or indices that do not fit.
        """
        return self._call(*arguments)

    def register(self, device: str, form: Form, gradient: Form | None = None) -> None:
        """Add the form of a device.

        Args:
            device: "CPU" or "CUDA".
            form: a function of all arguments that returns new tensors, or None where it cannot be used: then the
                plain form runs.
            gradient: a function of the gradients of the results (a list), all arguments, and for each tensor among
                them whether its gradient is needed; it returns the gradients that are needed, or None.
        """

        def run(*arguments: Any) -> Any:
            self.check(*arguments)
            made = form(*arguments)
            return self.plain(*arguments) if made is None else made

        def run_gradient(gradients: list[Tensor], *arguments: Any) -> list[Tensor]:
            self.check(*arguments[:-1])
            made = gradient(gradients, *arguments) if gradient is not None else None
            return self._plain_gradient(gradients, *arguments) if made is None else made

        LIBRARY.impl(self.name, run, device)
        LIBRARY.impl(f"{self.name}_gradient", run_gradient, device)

    def _flat(self, arguments: Sequence[Any]) -> list[Tensor | None]:
        """All tensors among the arguments, and None for optional ones that are missing."""
        flat: list[Tensor | None] = []
        for argument, value in zip(self.arguments, arguments, strict=True):
            if argument.is_tensor:
                flat.append(value)
            elif argument.is_list:
                flat.extend(value)
        return flat

    def _whole(self, tensors: Sequence[Any], rest: Sequence[Any]) -> list[Any]:
        """The inverse of `_flat`; ``rest`` has the length of each list and all values that are no tensors."""
        remaining = iter(tensors)
        arguments: list[Any] = []
        for argument, value in zip(self.arguments, rest, strict=True):
            if argument.is_tensor:
                arguments.append(next(remaining))
            elif argument.is_list:
                arguments.append([next(remaining) for _ in range(value)])
            else:
                arguments.append(value)
        return arguments

    def _rest(self, arguments: Sequence[Any]) -> list[Any]:
        return [
            None if argument.is_tensor else len(value) if argument.is_list else value
            for argument, value in zip(self.arguments, arguments, strict=True)
        ]

    def _recorded(self, keys: Any, *arguments: Any) -> Any:
        """The operator where gradients may be recorded; ``keys`` are the keys of this call of the dispatcher."""
        flat = self._flat(arguments)
        if native.switched_off() or any(x is not None and unpack_dual(x).tangent is not None for x in flat):
            return self.plain(*arguments)
        if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in flat):
            return self._function.apply(keys, self._rest(arguments), *flat)
        return self._call.redispatch(keys & torch._C._after_autograd_keyset, *arguments)

    def _forward(self, ctx: Any, keys: Any, rest: list[Any], *flat: Tensor | None) -> Any:
        ctx.rest = rest
        ctx.shapes = [None if x is None else x.shape for x in flat]
        kept = [None if is_linear else x for x, is_linear in zip(flat, self._linear_flags(rest), strict=True)]
        ctx.save_for_backward(*kept)
        return self._call.redispatch(keys & torch._C._after_autograd_keyset, *self._whole(flat, rest))

    def _backward(self, ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        zero = gradients[0].new_zeros(())
        tensors = [
            zero.expand(shape) if x is None and shape is not None else x
            for x, shape in zip(ctx.saved_tensors, ctx.shapes, strict=True)
        ]
        needed = list(ctx.needs_input_grad[2:])
        if torch.is_grad_enabled():
            made = plain_gradients(
                lambda *x: self.plain(*self._whole(x, ctx.rest)), tensors, gradients, needed
            )
            return None, None, *made
        of_inputs = iter(self._gradient(list(gradients), *self._whole(tensors, ctx.rest), needed))
        return None, None, *(next(of_inputs) if flag else None for flag in needed)

    def _linear_flags(self, rest: Sequence[Any]) -> list[bool]:
        flags: list[bool] = []
        for argument, value in zip(self.arguments, rest, strict=True):
            if argument.is_tensor or argument.is_list:
                flags += [argument.name in self.linear] * (value if argument.is_list else 1)
        return flags

    def _plain_gradient(self, gradients: list[Tensor], *arguments: Any) -> list[Tensor]:
        *inputs, needed = arguments
        rest = self._rest(inputs)
        with torch.no_grad():
            made = plain_gradients(
                lambda *x: self.plain(*self._whole(x, rest)), self._flat(inputs), gradients, needed
            )
        return [x for x in made if x is not None]

    def _gradient_outputs(self, gradients: list[Tensor], *arguments: Any) -> list[Tensor]:
        *inputs, needed = arguments
        return [
            x.new_empty(x.shape)
            for x, flag in zip(self._flat(inputs), needed, strict=True)
            if flag and x is not None
        ]
