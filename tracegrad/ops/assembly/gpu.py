"""Triton form of the assembly of dense matrices: a program for each row of each matrix."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tracegrad.ops.gpu import kernel, next_power_of_2

ELEMENTS = 1024  # largest number of elements that a program has at once


def assemble(
    on_site: Tensor, pairs: Tensor, atoms: Tensor, slots: Tensor, spans: Tensor, subtract: Sequence[Tensor]
) -> Tensor:
    """The form of the operator `assemble` for GPUs."""
    molecules, n = atoms.shape
    out = on_site.new_empty(molecules, n, n, dtype=torch.float64 if subtract else on_site.dtype)
    if out.numel():
        triangles = torch.stack(list(subtract)) if subtract else None
        inputs = (*(x.contiguous() for x in (on_site, pairs, atoms, slots, spans)), triangles)
        kernel(SOURCE, "assemble")[(n, molecules)](
            *(*inputs, out, n, len(on_site), len(pairs), on_site.shape[1]),
            BLOCK=min(ELEMENTS, next_power_of_2(n)),
        )
    return out


# An orbital, an atom or a pair that does not exist gives NaN.
SOURCE = """
def assemble(
    ON_SITE, PAIRS, ATOMS, SLOTS, SPANS, SUBTRACT, OUT, n_count, atom_count, edge_count, dim, BLOCK: tl.constexpr
):
    i, m = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    c = tl.arange(0, BLOCK)
    first = tl.load(SPANS + 3 * m)
    count = tl.load(SPANS + 3 * m + 1)
    edge = tl.load(SPANS + 3 * m + 2)
    dst = tl.load(ATOMS + m * n_count + i + 0 * c)
    row = tl.load(SLOTS + m * n_count + i + 0 * c)
    for start in range(0, n_count, BLOCK):
        j = start + c
        inside = j < n_count
        src = tl.load(ATOMS + m * n_count + j, mask=inside, other=0)
        column = tl.load(SLOTS + m * n_count + j, mask=inside, other=0)
        own = first + dst
        pair = edge + src * (count - 1) + dst - (dst > src).to(tl.int64)
        fits = inside & (row >= 0) & (row < dim) & (column >= 0) & (column < dim)
        fits = fits & (dst >= 0) & (dst < count) & (src >= 0) & (src < count)
        on_site = fits & (dst == src) & (own >= 0) & (own < atom_count)
        off_site = fits & (dst != src) & (pair >= 0) & (pair < edge_count)
        place = row * dim + column
        value = tl.load(ON_SITE + own * dim * dim + place, mask=on_site, other=0.0)
        value += tl.load(PAIRS + pair * dim * dim + place, mask=off_site, other=0.0)
        value = tl.where(on_site | off_site, value, float('nan')).to(OUT.dtype.element_ty)
        if SUBTRACT is not None:
            low, high = tl.minimum(i, j), tl.maximum(i, j)
            packed = m * (n_count * (n_count + 1) // 2) + high * (high + 1) // 2 + low
            value -= tl.load(SUBTRACT + packed, mask=inside, other=0.0)
        tl.store(OUT + (m * n_count + i) * n_count + j, value, mask=inside)
"""
