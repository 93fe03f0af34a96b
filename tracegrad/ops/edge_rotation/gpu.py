"""Triton form of the rotation matrices of edges: all numbers of a matrix for some edges at a time.

The waves of the angles are powers of complex numbers on the unit circle, so that no angle is computed.
"""

from functools import lru_cache

from torch import Tensor

from tracegrad.ops.gpu import kernel, next_power_of_2

EDGES = 16  # of a program
WARPS = 4


def edge_rotation(vectors: Tensor, table: Tensor) -> Tensor:
    """The form of the operator `edge_rotation` for GPUs; ``table`` are the waves of the polar angle."""
    made = vectors.new_empty(len(vectors), *table.shape[1:])
    if len(vectors):
        run = kernel(source(len(table) // 2), "edge_rotation")
        size = next_power_of_2(len(table) ** 2)
        run[(-(-len(vectors) // EDGES),)](
            *(vectors.contiguous(), table.contiguous(), made, len(vectors)),
            EDGES=EDGES,
            SIZE=size,
            num_warps=WARPS,
        )
    return made


@lru_cache(maxsize=32)
def source(degree: int) -> str:
    """Source of the kernel for irreps of one degree."""
    m = 2 * degree + 1
    lines = [
        "def edge_rotation(V, TABLE, OUT, edge_count, EDGES: tl.constexpr, SIZE: tl.constexpr):",
        "    number = V.dtype.element_ty",
        "    edge = (tl.program_id(0) * EDGES + tl.arange(0, EDGES)[:, None]).to(tl.int64)",
        "    inside = edge < edge_count",
        "    x = tl.load(V + edge * 3, mask=inside, other=0.0)",
        "    y = tl.load(V + edge * 3 + 1, mask=inside, other=0.0)",
        "    z = tl.load(V + edge * 3 + 2, mask=inside, other=0.0)",
        "    zero = x * 0",
        "    one = zero + 1",
        # Cosine and sine of both angles. Dividing by the largest number first avoids underflow.
        "    size = tl.maximum(tl.abs(x), tl.abs(y))",
        "    safe = tl.where(size > 0, size, one)",
        "    root = tl.sqrt((x / safe) * (x / safe) + (y / safe) * (y / safe))",
        "    across = size * root",
        "    cos_a = tl.where(size > 0, x / safe / tl.where(size > 0, root, one), one)",
        "    sin_a = tl.where(size > 0, y / safe / tl.where(size > 0, root, one), zero)",
        "    size = tl.maximum(across, tl.abs(z))",
        "    safe = tl.where(size > 0, size, one)",
        "    root = tl.sqrt((across / safe) * (across / safe) + (z / safe) * (z / safe))",
        "    cos_p = tl.where(size > 0, z / safe / tl.where(size > 0, root, one), one)",
        "    sin_p = tl.where(size > 0, across / safe / tl.where(size > 0, root, one), zero)",
        "    j = tl.arange(0, SIZE)[None, :]",
        f"    exists = j < {m * m}",
        f"    row = j // {m} - {degree}",
        f"    other = ({degree} - row) * {m} + j % {m}",
        "    same = tl.load(TABLE + j, mask=exists, other=0.0) + zero",
        "    opposite = tl.load(TABLE + other, mask=exists, other=0.0) + zero",
        "    cos_row = one + 0 * j.to(number)",
        "    sin_row = zero + 0 * j.to(number)",
        "    cos_qa, sin_qa, cos_qp, sin_qp = cos_a, sin_a, cos_p, sin_p",
    ]
    for q in range(1, degree + 1):
        if q > 1:
            for angle in ("a", "p"):
                c, s = f"cos_{angle}", f"sin_{angle}"
                lines.append(
                    f"    cos_q{angle}, sin_q{angle} = "
                    f"cos_q{angle} * {c} - sin_q{angle} * {s}, sin_q{angle} * {c} + cos_q{angle} * {s}"
                )
        lines += [
            "    cos_row = tl.where((row == {q}) | (row == -{q}), cos_qa, cos_row)".replace("{q}", str(q)),
            f"    sin_row = tl.where(row == {q}, sin_qa, tl.where(row == -{q}, -sin_qa, sin_row))",
        ]
        for wave, number in (("cos_qp", q), ("sin_qp", degree + q)):
            for name, place in (("same", "j"), ("opposite", "other")):
                load = f"tl.load(TABLE + {number * m * m} + {place}, mask=exists, other=0.0)"
                lines.append(f"    {name} += {wave} * {load}")
    lines += [
        "    result = cos_row * same - sin_row * opposite",
        f"    tl.store(OUT + edge * {m * m} + j, result, mask=inside & exists)",
    ]
    return "\n".join(lines) + "\n"
