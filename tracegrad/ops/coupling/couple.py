"""The operator of all Clebsch-Gordan products of component-first features.

A product couples components channel by channel, with weights w_p of one or two factors for each path p, and adds the
products k to the items of the output:

    out_l3[m3, io(k), c] += sum over p = (l1, l2, l3) and over m1, m2 of
        w1_p[r1(k), c] w2_p[r2(k), c] C^{l1 l2 l3}_{m1 m2 m3} a_l1[m1, ia(k), c] b_l2[m2, ib(k), c]

The plain form computes the outer product of each pair (l1, l2) once and contracts it with the coefficients of all
its paths. The kernels store no intermediate result: neither the outer products nor the gathered features exist,
which take most of the time and memory of the plain form.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tracegrad.numerics.constants import Constant
from tracegrad.numerics.wigner_3j import wigner_3j
from tracegrad.ops.coupling import cpu, gpu
from tracegrad.ops.coupling.paths import CouplingPaths
from tracegrad.ops.errors import OperatorArgumentError
from tracegrad.ops.operator import Operator

OptionalIndex = Int[Tensor, " _"] | None
# A factor of the weights: values, and for each product the row of the values that belongs to it (None: row k).
WeightFactor = tuple[Float[Tensor, "_ paths c"], OptionalIndex]
INDICES = ("item of a", "item of b", "item of the output", "row of factor 1", "row of factor 2")


def couple(
    key: str,
    a: Float[Tensor, "m1 items_a c"],
    b: Float[Tensor, "m2 items_b *c"],
    factors: Sequence[WeightFactor],
    indices: tuple[OptionalIndex, OptionalIndex, OptionalIndex],
    items: int,
) -> Float[Tensor, "m3 items c"]:
    """The sums of products.

    Args:
        key: of the `CouplingPaths`.
        a, b: features; b has no channels if it is shared.
        factors: one or two factors of the weights.
        indices: for each product its item of a, of b and of the output; None means item k for product k.
        items: number of items of the output.

    Raises:
        OperatorArgumentError: features, factors or indices whose shapes do not fit.
        OperatorIndexError: on a CPU, an index that is out of range; on a GPU the results are NaN then.
    """
    (w1, r1), (w2, r2) = factors if len(factors) == 2 else (*factors, (None, None))
    return COUPLE(a, b, w1, w2, *indices, r1, r2, items, key)


def product_count(a: Tensor, *indices: OptionalIndex) -> int:
    """Number of products: the length of the indices, or, without any, the number of items of a."""
    return next((len(index) for index in indices if index is not None), a.shape[1])


@lru_cache(maxsize=64)
def _groups(paths: CouplingPaths) -> list[tuple[int, int, list[tuple[int, int]], Constant]]:
    """For each pair (l1, l2): both, (path, l3) of its paths, and their coefficients [m3 of all paths, m1 m2]."""
    tables: dict[tuple[int, int], list[Tensor]] = {}
    targets: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for path, ((l1, l2, l3), scale) in enumerate(paths.paths):
        tables.setdefault((l1, l2), []).append(scale * wigner_3j(l1, l2, l3).flatten(0, 1).T)
        targets.setdefault((l1, l2), []).append((path, l3))
    return [(l1, l2, targets[l1, l2], Constant(torch.cat(table))) for (l1, l2), table in tables.items()]


def _plain(
    a: Tensor,
    b: Tensor,
    w1: Tensor,
    w2: Tensor | None,
    ia: OptionalIndex,
    ib: OptionalIndex,
    io: OptionalIndex,
    r1: OptionalIndex,
    r2: OptionalIndex,
    items: int,
    key: str,
) -> Tensor:
    paths = CouplingPaths.named(key)
    weights = _selected(w1, r1, 0) if w2 is None else _selected(w1, r1, 0) * _selected(w2, r2, 0)
    per_path = weights.unbind(1)  # one gradient buffer for all paths, not one for each
    a, b = _selected(a, ia, 1), _selected(b[..., None] if paths.shared else b, ib, 1)
    parts: dict[int, Tensor] = {}  # by degree
    for l1, l2, targets, table in _groups(paths):
        outer = a[l1**2 : (l1 + 1) ** 2, None] * b[None, l2**2 : (l2 + 1) ** 2]
        coupled = (table(outer) @ outer.flatten(0, 1).flatten(1)).unflatten(1, a.shape[1:])
        for (path, l3), part in zip(targets, coupled.split([2 * l3 + 1 for _, l3 in targets]), strict=True):
            if l3 in parts:
                parts[l3] = torch.addcmul(parts[l3], part, per_path[path])
            else:
                parts[l3] = part * per_path[path]
    for degree in range(paths.degrees[2] + 1):
        if degree not in parts:
            parts[degree] = a.new_zeros(2 * degree + 1, *a.shape[1:])
    made = torch.cat([parts[degree] for degree in range(paths.degrees[2] + 1)])
    return made if io is None else made.new_zeros(len(made), items, a.shape[2]).index_add(1, io, made)


def _selected(x: Tensor, index: OptionalIndex, dim: int) -> Tensor:
    return x if index is None else x.index_select(dim, index)


def _outputs(a: Tensor, b: Tensor, w1: Tensor, w2: Tensor | None, *others: Any) -> Tensor:
    *_, items, key = others
    return a.new_empty(CouplingPaths.named(key).dims[2], items, a.shape[2])


def _check(
    a: Tensor,
    b: Tensor,
    w1: Tensor,
    w2: Tensor | None,
    ia: OptionalIndex,
    ib: OptionalIndex,
    io: OptionalIndex,
    r1: OptionalIndex,
    r2: OptionalIndex,
    items: int,
    key: str,
) -> None:
    paths = CouplingPaths.named(key)
    m1, m2, _ = paths.dims
    n, count = product_count(a, ia, ib, io, r1, r2), len(paths.paths)
    features = a.ndim == 3 and b.ndim == 3 - paths.shared and len(a) == m1 and len(b) == m2
    factors = [w1] if w2 is None else [w1, w2]
    if (
        not features
        or not (paths.shared or b.shape[2] == a.shape[2])
        or any(w.ndim != 3 or w.shape[1:] != (count, a.shape[2]) for w in factors)
        or any(x.dtype != a.dtype for x in (b, *factors))
    ):
        tensors = {"a": a, "b": b, **{f"factor {k}": w for k, w in enumerate(factors, start=1)}}
        shapes = ", ".join(f"{name} {tuple(x.shape)} {x.dtype}" for name, x in tensors.items())
        raise OperatorArgumentError(
            f"Clebsch-Gordan product of {shapes}: instead of ({m1}, items, c), ({m2}, items"
            f"{'' if paths.shared else ', c'}) and (rows, {count}, c) of one dtype"
        )
    limits = (a.shape[1], b.shape[1], items, *(len(w) for w in factors))
    for name, index, limit in zip(INDICES, (ia, ib, io, r1, r2), limits, strict=False):
        if index is None and limit != n:
            raise OperatorArgumentError(
                f"Clebsch-Gordan product, {name}: {limit} items without an index for {n} products; give an index"
            )
        if index is not None and (index.ndim != 1 or len(index) != n or index.is_floating_point()):
            raise OperatorArgumentError(
                f"Clebsch-Gordan product, {name}: an index of the shape {tuple(index.shape)}, {index.dtype}; "
                f"{n} whole numbers are needed"
            )


def _covers(a: Tensor, b: Tensor, *others: Any) -> bool:
    """The C++ form has no gradient of a shared b, which would be a sum over the channels that threads share."""
    return not (CouplingPaths.named(others[-1]).shared and b.requires_grad and b.device.type == "cpu")


COUPLE = Operator(
    "couple",
    "Tensor a, Tensor b, Tensor w1, Tensor? w2, Tensor? ia, Tensor? ib, Tensor? io, Tensor? r1, Tensor? r2, "
    "SymInt items, str key",
    _plain,
    _outputs,
    check=_check,
    covers=_covers,
)
COUPLE.register("CPU", cpu.couple, cpu.couple_gradient)
COUPLE.register("CUDA", gpu.couple, gpu.couple_gradient)
