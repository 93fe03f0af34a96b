"""Triton form of the errors of blocks: one program for each block, then one for each sample.

A sample's program goes through all blocks in their order, so that sums are the same in every run.
"""

from collections.abc import Sequence

from torch import Tensor

from tracegrad.ops.gpu import kernel, next_power_of_2

ELEMENTS = 1024  # largest number of elements that a program has at once


def block_errors(
    blocks: Tensor,
    labels: Tensor,
    rows: Tensor,
    columns: Tensor,
    ends: Tensor,
    sample: Tensor,
    samples: int,
    square: float,
    modulus: float,
) -> tuple[Tensor, Tensor]:
    """The form of the operator `block_errors` for GPUs."""
    n = len(blocks)
    per_block = blocks.new_empty(2, n)
    errors, counts = blocks.new_empty(samples), blocks.new_empty(samples)
    ends, sample = ends.contiguous(), sample.contiguous()
    inputs = (*(x.contiguous() for x in (blocks, labels, rows, columns)), ends, sample)
    if n:
        _of_blocks("sums", inputs, square, modulus, per_block)
    if samples:
        run = kernel(SOURCE, "add")
        run[(samples,)](per_block, ends, sample, errors, counts, n, len(sample), samples, BLOCK=ELEMENTS)
    return errors, counts


def block_errors_gradient(
    gradients: Sequence[Tensor],
    blocks: Tensor,
    labels: Tensor,
    rows: Tensor,
    columns: Tensor,
    ends: Tensor,
    sample: Tensor,
    samples: int,
    square: float,
    modulus: float,
    needed: Sequence[bool],
) -> list[Tensor] | None:
    """The gradient of the operator `block_errors` for GPUs."""
    inputs = tuple(x.contiguous() for x in (blocks, labels, rows, columns, ends, sample))
    of_blocks = inputs[0].new_empty(blocks.shape)
    if of_blocks.numel():
        _of_blocks("gradients", inputs, square, modulus, of_blocks, gradients[0].contiguous())
    return [x for x, flag in ((of_blocks, needed[0]), (-of_blocks, needed[1])) if flag]


def _of_blocks(
    name: str,
    inputs: Sequence[Tensor],
    square: float,
    modulus: float,
    result: Tensor,
    gradient: Tensor | None = None,
) -> None:
    blocks, *_, sample = inputs
    n, row, column, parts = blocks.shape
    run = kernel(SOURCE, name)
    run[(n,)](
        *(*inputs, gradient, result),
        *(n, len(sample), 0 if gradient is None else len(gradient), row, column),
        SQUARE=square,
        MODULUS=modulus,
        PARTS=parts,
        BLOCK=min(ELEMENTS, next_power_of_2(row * column)),
    )


# An atom or a sample that does not exist gives NaN; `modulus` has the derivative 0 where the difference is 0.
_DIFFERENCE = """
    k = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, BLOCK)
    dst = tl.load(ENDS + k + 0 * c).to(tl.int64)
    src = tl.load(ENDS + n_count + k + 0 * c).to(tl.int64)
    fits = (dst >= 0) & (dst < atom_count) & (src >= 0) & (src < atom_count)
    poison = tl.where(fits, 0.0, float('nan')).to(RESULT.dtype.element_ty)
    {begin}
    for first in range(0, row_size * column_size, BLOCK):
        e = first + c
        inside = e < row_size * column_size
        row = tl.load(ROWS + dst * row_size + e // column_size, mask=inside & fits, other=0.0)
        column = tl.load(COLUMNS + src * column_size + e % column_size, mask=inside & fits, other=0.0)
        mask = row * column + poison
        at = (k * row_size * column_size + e) * PARTS
        d = (tl.load(X + at, mask=inside, other=0.0) - tl.load(Y + at, mask=inside, other=0.0)) * mask
        if PARTS == 2:
            f = (tl.load(X + at + 1, mask=inside, other=0.0) - tl.load(Y + at + 1, mask=inside, other=0.0)) * mask
            squared = d * d + f * f
            length = tl.sqrt(squared)
        else:
            squared = d * d if SQUARE != 0 else d
            length = tl.abs(d)
"""
SOURCE = f"""
def sums(
    X, Y, ROWS, COLUMNS, ENDS, SAMPLE, G, RESULT, n_count, atom_count, sample_count, row_size, column_size,
    SQUARE: tl.constexpr, MODULUS: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr,
):{_DIFFERENCE.format(begin="total, elements = poison, poison")}
        if SQUARE != 0:
            total += SQUARE * squared
        if MODULUS != 0:
            total += MODULUS * length
        elements += mask
    tl.store(RESULT + k, tl.sum(total, 0))
    tl.store(RESULT + n_count + k, tl.sum(elements, 0))


def gradients(
    X, Y, ROWS, COLUMNS, ENDS, SAMPLE, G, RESULT, n_count, atom_count, sample_count, row_size, column_size,
    SQUARE: tl.constexpr, MODULUS: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr,
):{
    _DIFFERENCE.format(
        begin='''s = tl.load(SAMPLE + dst, mask=fits, other=-1).to(tl.int64)
    known = (s >= 0) & (s < sample_count)
    g = tl.load(G + s, mask=known, other=0.0) + tl.where(known, 0.0, float('nan')).to(RESULT.dtype.element_ty)'''
    )
}
        factor = g * mask
        if PARTS == 2:
            scale = tl.zeros_like(d) + 2.0 * SQUARE
            if MODULUS != 0:
                scale += tl.where(length > 0, MODULUS / tl.where(length > 0, length, 1.0), 0.0)
            tl.store(RESULT + at, factor * scale * d, mask=inside)
            tl.store(RESULT + at + 1, factor * scale * f, mask=inside)
        else:
            slope = tl.where(d != d, d, 0.0)
            if SQUARE != 0:
                slope += 2.0 * SQUARE * d
            if MODULUS != 0:
                slope += MODULUS * ((d > 0).to(d.dtype) - (d < 0).to(d.dtype))
            tl.store(RESULT + at, factor * slope, mask=inside)


def add(PER_BLOCK, ENDS, SAMPLE, ERRORS, COUNTS, n_count, atom_count, sample_count, BLOCK: tl.constexpr):
    s = tl.program_id(0)
    c = tl.arange(0, BLOCK)
    errors = tl.zeros((BLOCK,), ERRORS.dtype.element_ty)
    counts = tl.zeros((BLOCK,), ERRORS.dtype.element_ty)
    for first in range(0, n_count, BLOCK):
        k = first + c
        inside = k < n_count
        dst = tl.load(ENDS + k, mask=inside, other=-1).to(tl.int64)
        owner = tl.load(SAMPLE + dst, mask=(dst >= 0) & (dst < atom_count), other=-1)
        mine = inside & (owner == s)
        unknown = inside & ((owner < 0) | (owner >= sample_count))
        errors += tl.where(unknown, float('nan'), tl.load(PER_BLOCK + k, mask=mine, other=0.0))
        counts += tl.where(unknown, float('nan'), tl.load(PER_BLOCK + n_count + k, mask=mine, other=0.0))
    tl.store(ERRORS + s, tl.sum(errors, 0))
    tl.store(COUNTS + s, tl.sum(counts, 0))
"""
