"""Triton form of the gates: one kernel for all functions, and one for the gradients."""

from collections.abc import Sequence
from functools import lru_cache

from torch import Tensor

from tracegrad.ops.gates.cpu import columns_of
from tracegrad.ops.gpu import kernel

ITEMS, CHANNELS = 16, 64  # of a program
WARPS = 4
VALUES = {
    "silu": ("x / (1 + tl.exp(-x))", "s + y * (1 - s)"),
    "tanh": ("2 / (1 + tl.exp(-2 * x)) - 1", "1 - y * y"),
    "sigmoid": ("1 / (1 + tl.exp(-x))", "y * (1 - y)"),
}  # y, and its derivative, where s is the sigmoid of x


def gates(
    x: Sequence[Tensor],
    scale: Tensor,
    widths: Sequence[int],
    owners: Sequence[int],
    functions: str,
    factors: Sequence[float],
) -> list[Tensor]:
    """The form of the operator `gates` for GPUs."""
    out = [part.new_empty(part.shape) for part in x]
    none = [None] * len(x)
    _run(x, scale, widths, owners, functions, factors, out, none, None)
    return out


def gates_gradient(
    gradients: Sequence[Tensor],
    x: Sequence[Tensor],
    scale: Tensor,
    widths: Sequence[int],
    owners: Sequence[int],
    functions: str,
    factors: Sequence[float],
    needed: Sequence[bool],
) -> list[Tensor]:
    """The gradient of the operator `gates` for GPUs."""
    of_x, of_scale = [part.new_empty(part.shape) for part in x], scale.new_empty(scale.shape)
    given = [g.contiguous() for g in gradients]
    _run(x, scale, widths, owners, functions, factors, of_x, given, of_scale)
    return [y for y, flag in zip((*of_x, of_scale), needed, strict=True) if flag]


def _run(
    x: Sequence[Tensor],
    scale: Tensor,
    widths: Sequence[int],
    owners: Sequence[int],
    functions: str,
    factors: Sequence[float],
    results: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    of_scale: Tensor | None,
) -> None:
    if not results or not scale.numel():
        return
    columns = tuple(tuple(columns_of(k, widths, owners)) for k in range(len(x)))
    pieces = sum(map(len, columns))
    run = kernel(source(columns, functions, tuple(factors), gradient=of_scale is not None), "gates")
    run[-(-len(scale) // ITEMS), pieces, -(-max(w for of_x in columns for _, w in of_x) // CHANNELS)](
        *(part if part.stride(1) == 1 else part.contiguous() for part in x),
        *(*results, *gradients, scale.contiguous(), of_scale, len(scale)),
        *(part.stride(0) if part.stride(1) == 1 else part.shape[1] for part in x),
        ITEMS=ITEMS,
        CHANNELS=CHANNELS,
        num_warps=WARPS,
    )


@lru_cache(maxsize=256)
def source(
    columns: tuple[tuple[tuple[int, int], ...], ...],
    functions: str,
    factors: tuple[float, ...],
    *,
    gradient: bool,
) -> str:
    """Source of the kernel of the values, or of the gradients.

    Args:
        columns: for each x the columns of the scale that belong to it.
        functions, factors: of each x.
        gradient: whether gradients are computed.
    """
    count, total = len(columns), sum(width for of_x in columns for _, width in of_x)
    tensors = [f"{letter}{k}" for letter in ("X", "Y", "G") for k in range(count)]
    lines = [
        "def gates(",
        f"    {', '.join(tensors)},",
        f"    SCALE, OF_SCALE, item_count, {', '.join(f'step{k}_count' for k in range(count))},",
        "    ITEMS: tl.constexpr, CHANNELS: tl.constexpr,",
        "):",
        "    piece = tl.program_id(1)",
        "    item = (tl.program_id(0) * ITEMS + tl.arange(0, ITEMS)[:, None]).to(tl.int64)",
        "    c = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)[None, :]",
    ]
    piece = 0
    for k, (of_x, name) in enumerate(zip(columns, functions.split(), strict=True)):
        width, first = sum(w for _, w in of_x), 0
        value, slope = VALUES[name]
        for start, size in of_x:
            place = f"item * {width} + {first} + c"
            lines += [
                f"    if piece == {piece}:",
                f"        at = (item < item_count) & (c < {size})",
                f"        x = tl.load(X{k} + item * step{k}_count + {first} + c, mask=at, other=0.0)",
                f"        scale = tl.load(SCALE + item * {total} + {start} + c, mask=at, other=0.0)",
                f"        y = {value}",
            ]
            if gradient:
                lines += [
                    "        s = 1 / (1 + tl.exp(-x))",
                    f"        g = tl.load(G{k} + {place}, mask=at, other=0.0) * {factors[k]!r}",
                    f"        tl.store(OF_SCALE + item * {total} + {start} + c, g * y, mask=at)",
                    f"        tl.store(Y{k} + {place}, g * scale * ({slope}), mask=at)",
                ]
            else:
                lines.append(f"        tl.store(Y{k} + {place}, y * (scale * {factors[k]!r}), mask=at)")
            piece, first = piece + 1, first + size
    return "\n".join(lines) + "\n"
