"""Triton form of inner and crossed products of terms: one launch for all irreps, whose source has a loop for each."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from torch import Tensor

from tracegrad.ops.gpu import kernel

BLOCK = 512  # terms of a program


def add_inner(
    u: Tensor,
    derivative: Tensor | None,
    x: Sequence[Tensor],
    y: Sequence[Tensor] | None,
    scales: Sequence[float],
) -> bool:
    """As `tracegrad.ops.low_rank.cpu.add_inner`."""
    tensors = {"X": x, **({} if y is None else {"Y": y})}
    return _run("inner", tensors, {"U": u, "DERIVATIVE": derivative}, scales)


def write_crossed(
    out: Sequence[Tensor],
    total: Sequence[Tensor] | None,
    x: Sequence[Tensor],
    y: Sequence[Tensor] | None,
    factor: Tensor,
    factor_x: Tensor | None,
    scales: Sequence[float],
) -> bool:
    """As `tracegrad.ops.low_rank.cpu.write_crossed`."""
    also = {} if total is None or y is None else {"Y": y, "TOTAL": total}
    return _run("crossed", {"X": x, "OUT": out, **also}, {"F": factor, "F_X": factor_x}, scales)


def _run(
    name: str,
    terms: dict[str, Sequence[Tensor]],
    factors: dict[str, Tensor | None],
    scales: Sequence[float],
) -> bool:
    x = terms["X"]
    if x and x[0].numel():
        _, items, _, width = x[0].shape
        block = min(BLOCK, 1 << (width - 1).bit_length())
        run: Any = kernel(source(name, tuple(terms), tuple(map(len, x)), tuple(scales)), name)
        run[items, -(-width // block)](
            *factors.values(), *(t for parts in terms.values() for t in parts), items, width, BLOCK=block
        )
    return True


@lru_cache(maxsize=64)
def source(name: str, kinds: tuple[str, ...], components: tuple[int, ...], scales: tuple[float, ...]) -> str:
    """Source of a kernel.

    Args:
        name: "inner" or "crossed".
        kinds: names of the tensors of each irrep.
        components: of each irrep.
        scales: factor of each irrep.
    """
    tensors = ", ".join(f"{kind}{k}" for kind in kinds for k in range(len(components)))
    factors = "U, DERIVATIVE" if name == "inner" else "F, F_X"
    start, loop, end = _PARTS[name, "Y" in kinds]
    lines = [
        f"def {name}({factors}, {tensors}, n_count, width, BLOCK: tl.constexpr):",
        "    item = tl.program_id(0).to(tl.int64)",
        "    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)",
        "    inside = c < width",
        "    at = item * width + c",
        *(f"    {line}" for line in start),
    ]
    for k, (m, scale) in enumerate(zip(components, scales, strict=True)):
        lines += [
            f"    for m in range({m}):",
            "        row = (m * n_count.to(tl.int64) + item) * 2 * width + c",
            *(f"        {line.format(k=k, s=repr(scale))}" for line in loop),
        ]
    return "\n".join([*lines, *(f"    {line}" for line in end)]) + "\n"


_LOAD_X = [
    "xa = tl.load(X{k} + row, mask=inside, other=0.0)",
    "xb = tl.load(X{k} + row + width, mask=inside, other=0.0)",
]
_LOAD_Y = [line.replace("x", "y").replace("X", "Y") for line in _LOAD_X]
_START, _END = ["u = tl.load(U + at, mask=inside, other=0.0)"], ["tl.store(U + at, u, mask=inside)"]
_FACTOR = ["f = tl.load(F + at, mask=inside, other=0.0)"]
_OUT = [
    "tl.store(OUT{k} + row, xb * f * {s}, mask=inside)",
    "tl.store(OUT{k} + row + width, xa * f * {s}, mask=inside)",
]
# Lines before, in and after the loops, without and with y.
_PARTS = {
    ("inner", False): (_START, [*_LOAD_X, "u += xa * xb * {s}"], _END),
    ("inner", True): (
        [*_START, "d = tl.load(DERIVATIVE + at, mask=inside, other=0.0)"],
        [*_LOAD_X, *_LOAD_Y, "u += xa * xb * {s}", "d += (xa * yb + xb * ya) * {s}"],
        [*_END, "tl.store(DERIVATIVE + at, d, mask=inside)"],
    ),
    ("crossed", False): (_FACTOR, [*_LOAD_X, *_OUT], []),
    ("crossed", True): (
        [*_FACTOR, "q = tl.load(F_X + at, mask=inside, other=0.0)"],
        [
            *_LOAD_X,
            *_LOAD_Y,
            *_OUT,
            "tl.store(TOTAL{k} + row, (xb * q + yb * f) * {s}, mask=inside)",
            "tl.store(TOTAL{k} + row + width, (xa * q + ya * f) * {s}, mask=inside)",
        ],
        [],
    ),
}
