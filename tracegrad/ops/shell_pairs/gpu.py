"""Triton form of the expansion into blocks: a kernel that rotates features, and one that multiplies by the map."""

from collections.abc import Sequence
from functools import lru_cache

from torch import Tensor

from tracegrad.ops.gpu import kernel
from tracegrad.ops.shell_pairs.maps import ExpansionMap, SparseMap

ITEMS, ROWS, CHANNELS = 16, 64, 32  # of a program
WARPS = 4
Layout = tuple[
    tuple[int, int, bool], ...
]  # components and channels of each feature, and whether it has a rotation


def expand(x: Sequence[Tensor], rotations: Sequence[Tensor | None], key: str) -> Tensor:
    """The form of the operator `expand` for GPUs."""
    sparse = ExpansionMap.named(key)
    numbers = x[0].new_empty(len(x[0]), sparse.transpose.outputs)
    _rotate([part.contiguous() for part in x], rotations, numbers, back=False)
    return _multiply(sparse.forward, numbers)


def expand_gradient(
    gradients: Sequence[Tensor],
    x: Sequence[Tensor],
    rotations: Sequence[Tensor | None],
    key: str,
    needed: Sequence[bool],
) -> list[Tensor] | None:
    """The gradient of the operator `expand` for GPUs."""
    of_x = [part.new_empty(part.shape) for part in x]
    _rotate(
        of_x, rotations, _multiply(ExpansionMap.named(key).transpose, gradients[0].contiguous()), back=True
    )
    return [part for part, flag in zip(of_x, needed, strict=False) if flag]


def _rotate(x: Sequence[Tensor], rotations: Sequence[Tensor | None], numbers: Tensor, *, back: bool) -> None:
    """Numbers in the global frame from features in the frames of the items, or back."""
    layout = tuple((*part.shape[1:], r is not None) for part, r in zip(x, rotations, strict=True))
    widest = max(c for _, c, _ in layout)
    if len(numbers) and widest:
        run = kernel(rotation_source(layout, back=back), "rotate")
        run[-(-len(numbers) // ITEMS), len(layout), -(-widest // CHANNELS)](
            *x,
            *(None if r is None else r.contiguous() for r in rotations),
            *(numbers, len(numbers)),
            ITEMS=ITEMS,
            CHANNELS=CHANNELS,
            num_warps=WARPS,
        )


def _multiply(sparse: SparseMap, x: Tensor) -> Tensor:
    made = x.new_empty(len(x), sparse.outputs)
    if made.numel():
        indices = (index(x.device) for index in (sparse.targets, sparse.starts, sparse.columns))
        run = kernel(PRODUCT, "multiply")
        run[-(-len(x) // ITEMS), -(-sparse.outputs // ROWS)](
            *(x, made, *indices, sparse.values(x), len(x), x.shape[1], sparse.outputs),
            ITEMS=ITEMS,
            ROWS=ROWS,
            num_warps=WARPS,
        )
    return made


PRODUCT = """
def multiply(
    X, Y, TARGETS, STARTS, COLUMNS, VALUES, item_count, inputs, outputs, ITEMS: tl.constexpr, ROWS: tl.constexpr
):
    item = (tl.program_id(0) * ITEMS + tl.arange(0, ITEMS)[:, None]).to(tl.int64)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    exists = row < outputs
    start = tl.load(STARTS + row, mask=exists, other=0)
    count = tl.load(STARTS + row + 1, mask=exists, other=0) - start
    y = tl.zeros((ITEMS, ROWS), X.dtype.element_ty)
    for k in range(0, tl.max(count, 0)):
        here = k < count
        column = tl.load(COLUMNS + start + k, mask=here, other=0)
        value = tl.load(VALUES + start + k, mask=here, other=0.0)
        at = (item < item_count) & here[None, :]
        y += tl.load(X + item * inputs + column[None, :], mask=at, other=0.0) * value[None, :]
    target = tl.load(TARGETS + row, mask=exists, other=0)
    tl.store(Y + item * outputs + target[None, :], y, mask=(item < item_count) & exists[None, :])
"""


@lru_cache(maxsize=64)
def rotation_source(layout: Layout, *, back: bool) -> str:
    """Source of the kernel that rotates all features into the global frame, or back."""
    tensors = [f"{letter}{k}" for letter in ("X", "R") for k in range(len(layout))]
    lines = [
        "def rotate(",
        f"    {', '.join(tensors)}, NUMBERS, item_count, ITEMS: tl.constexpr, CHANNELS: tl.constexpr",
        "):",
        "    part = tl.program_id(1)",
        "    item = (tl.program_id(0) * ITEMS + tl.arange(0, ITEMS)[:, None]).to(tl.int64)",
        "    c = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)[None, :]",
    ]
    numbers, first = sum(m * c for m, c, _ in layout), 0
    for k, (m, c, rotated) in enumerate(layout):
        lines += [f"    if part == {k}:", f"        at = (item < item_count) & (c < {c})"]
        local = [f"X{k} + (item * {m} + {i}) * {c} + c" for i in range(m)]
        fixed = [f"NUMBERS + item * {numbers} + {first + i * c} + c" for i in range(m)]
        given, made = (fixed, local) if back else (local, fixed)
        lines += [f"        x{i} = tl.load({place}, mask=at, other=0.0)" for i, place in enumerate(given)]
        for i, place in enumerate(made):
            terms = [f"x{i}"]
            if rotated:
                places = (f"{j} * {m} + {i}" if back else f"{i} * {m} + {j}" for j in range(m))
                terms = [
                    f"tl.load(R{k} + item * {m * m} + {at}, mask=item < item_count, other=0.0) * x{j}"
                    for j, at in enumerate(places)
                ]
            lines.append(f"        tl.store({place}, {' + '.join(terms)}, mask=at)")
        first += m * c
    return "\n".join(lines) + "\n"
