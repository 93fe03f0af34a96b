"""The operators of a low-rank W: inner products of terms, and the transpose of their Jacobian.

The *terms* of an irrep are its channels after both linear maps of a low-rank W, x = (a, b), stored as

    x[m, i, 0, t] = a        x[m, i, 1, t] = b        component m, item i, term t

`inner_terms` is u = sum over irreps of s sum over m of a b, and `crossed_terms` its gradient [b | a] times s and a
factor of each item and term. Both are linear in each of their factors, so that the derivatives are of the same form.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from tracegrad.ops.errors import OperatorArgumentError
from tracegrad.ops.low_rank import cpu, gpu
from tracegrad.ops.matrix_product import linear, product
from tracegrad.ops.operator import Operator

T = TypeVar("T")
Terms = Float[Tensor, "_m _n 2 _terms"]  # of one irrep


def mapped_terms(feature: Sequence[Float[Tensor, "_m _n _c"]], weights: Sequence[Tensor]) -> list[Terms]:
    """The terms of all irreps; the columns of a weight are those of a, then those of b."""
    return [
        product(f.reshape(-1, f.shape[2]), w).view(*f.shape[:2], 2, w.shape[1] // 2)
        for f, w in zip(feature, weights, strict=True)
    ]


def invariants_of(
    terms: Sequence[Terms], scales: Sequence[float], rank: int
) -> Float[Tensor, "_n _channels"]:
    """u; ``rank`` terms make a channel."""
    return narrow(INNER_TERMS(terms, scales), rank)


def pulled_terms(
    terms: Sequence[Terms],
    weights: Sequence[Tensor],
    g: Float[Tensor, "_n _channels"],
    scales: Sequence[float],
    rank: int,
) -> list[Float[Tensor, "_m _n _c"]]:
    """sum_c g_c du_c/df."""
    crossed = CROSSED_TERMS(terms, wide(g, rank), scales)
    return [
        linear(x.view(-1, w.shape[1]), w).view(*x.shape[:2], w.shape[0])
        for x, w in zip(crossed, weights, strict=True)
    ]


def narrow(u: Float[Tensor, "_n _terms"], rank: int) -> Float[Tensor, "_n _channels"]:
    """Sums over the terms of each channel."""
    return u.unflatten(1, (-1, rank)).sum(2) if rank > 1 else u


def wide(g: Float[Tensor, "_n _channels"], rank: int) -> Float[Tensor, "_n _terms"]:
    """One number for each term of each channel."""
    return g.repeat_interleave(rank, dim=1) if rank > 1 else g


def _plain_inner(terms: Sequence[Tensor], scales: Sequence[float]) -> Tensor:
    return torch.stack(
        [(x[:, :, 0] * x[:, :, 1]).sum(0) * s for x, s in zip(terms, scales, strict=True)]
    ).sum(0)


def _plain_crossed(terms: Sequence[Tensor], factor: Tensor, scales: Sequence[float]) -> list[Tensor]:
    return [x.flip(2) * (factor * s)[:, None] for x, s in zip(terms, scales, strict=True)]


def _check(terms: Sequence[Tensor], *others: Any) -> None:
    *factor, scales = others
    shape = terms[0].shape[1:]
    if (
        len(shape) != 3
        or any(x.shape[1:] != shape for x in terms)
        or shape[1] != 2
        or any(f.shape != (shape[0], shape[2]) for f in factor)
        or len(scales) != len(terms)
        or len({x.dtype for x in (*terms, *factor)}) > 1
    ):
        given = ", ".join(f"{tuple(x.shape)} {x.dtype}" for x in (*terms, *factor))
        raise OperatorArgumentError(
            f"terms: tensors {given} and {len(scales)} factors; (m, n, 2, terms) for each factor and (n, terms), of "
            "one dtype, are needed"
        )


def _outputs(terms: Sequence[Tensor], scales: Sequence[float]) -> Tensor:
    return terms[0].new_empty(terms[0].shape[1], terms[0].shape[3])


def _crossed_outputs(terms: Sequence[Tensor], factor: Tensor, scales: Sequence[float]) -> list[Tensor]:
    return [x.new_empty(x.shape) for x in terms]


INNER_TERMS = Operator("inner_terms", "Tensor[] terms, float[] scales", _plain_inner, _outputs, check=_check)
CROSSED_TERMS = Operator(
    "crossed_terms",
    "Tensor[] terms, Tensor factor, float[] scales",
    _plain_crossed,
    _crossed_outputs,
    check=_check,
    results=None,
)


def _register(device: str, add_inner: Callable[..., bool], write_crossed: Callable[..., bool]) -> None:
    """The forms of both operators by the kernels of a device."""

    def inner(terms: Sequence[Tensor], scales: Sequence[float]) -> Tensor | None:
        u = terms[0].new_zeros(terms[0].shape[1], terms[0].shape[3])
        return u if add_inner(u, None, _dense(terms), None, scales) else None

    def inner_gradient(
        gradients: Sequence[Tensor], terms: Sequence[Tensor], scales: Sequence[float], needed: Sequence[bool]
    ) -> list[Tensor] | None:
        return crossed(_chosen(terms, needed), gradients[0], _chosen(scales, needed))

    def crossed(terms: Sequence[Tensor], factor: Tensor, scales: Sequence[float]) -> list[Tensor] | None:
        out = [x.new_empty(x.shape) for x in terms]
        return (
            out if write_crossed(out, None, _dense(terms), None, factor.contiguous(), None, scales) else None
        )

    def crossed_gradient(
        gradients: Sequence[Tensor],
        terms: Sequence[Tensor],
        factor: Tensor,
        scales: Sequence[float],
        needed: Sequence[bool],
    ) -> list[Tensor] | None:
        of_terms = crossed(_chosen(gradients, needed), factor, _chosen(scales, needed))
        u, of_factor = factor.new_zeros(factor.shape), factor.new_zeros(factor.shape)
        if needed[-1] and not add_inner(u, of_factor, _dense(terms), _dense(gradients), scales):
            return None
        return of_terms if of_terms is None or not needed[-1] else [*of_terms, of_factor]

    INNER_TERMS.register(device, inner, inner_gradient)
    CROSSED_TERMS.register(device, crossed, crossed_gradient)


def _chosen(values: Sequence[T], needed: Sequence[bool]) -> list[T]:
    return [value for value, flag in zip(values, needed, strict=False) if flag]


def _dense(terms: Sequence[Tensor]) -> list[Tensor]:
    return [x.resolve_neg().contiguous() for x in terms]


_register("CPU", cpu.add_inner, cpu.write_crossed)
_register("CUDA", gpu.add_inner, gpu.write_crossed)
