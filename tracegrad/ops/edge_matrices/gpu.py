"""The Triton form of `edge_matrices`, driven by tables.

A program of ``assemble`` computes a block of one submatrix. A program of ``gradients`` takes one *piece* of the
weights, w1[p, :, w] and w2[p, w] of one coupling and input for some w; it adds up all submatrices that use the piece.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from tracegrad.ops.edge_matrices.table import MatrixTable
from tracegrad.ops.gpu import kernel

ROWS, COLUMNS = 16, 64  # of the block that a program takes, or of a step


def edge_matrices(w1: Tensor, w2: Tensor, key: str) -> Tensor:
    """The form of the operator `edge_matrices` for GPUs."""
    table = MatrixTable.named(key)
    matrices = w1.new_empty(table.size)
    numbers, *_ = _tables(key, w1.device)
    rows, columns = table.numbers[:, 2:4].amax(0).tolist()
    grid = len(numbers), -(-rows // ROWS), -(-columns // COLUMNS)
    kernel(SOURCE, "assemble")[grid](
        *(numbers, table.values(w1), matrices, w1.contiguous(), w2.contiguous()), ROWS=ROWS, COLUMNS=COLUMNS
    )
    return matrices


def edge_matrices_gradient(
    gradients: list[Tensor], w1: Tensor, w2: Tensor, key: str, needed: Sequence[bool]
) -> list[Tensor]:
    """The gradient of the operator `edge_matrices` for GPUs."""
    table = MatrixTable.named(key)
    made = [torch.zeros_like(x, memory_format=torch.contiguous_format) for x in (w1, w2)]
    _, pieces, uses = _tables(key, w1.device)
    columns = max(columns for _, _, _, columns in table.pieces)
    kernel(SOURCE, "gradients")[(len(pieces), -(-columns // COLUMNS))](
        *(pieces, uses, table.values(w1), gradients[0].contiguous(), w1.contiguous(), w2.contiguous(), *made),
        ROWS=ROWS,
        COLUMNS=COLUMNS,
    )
    return [x for x, flag in zip(made, needed, strict=True) if flag]


@lru_cache(maxsize=256)
def _tables(key: str, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """`MatrixTable.numbers`; its pieces, each with the range of its contributions; and these contributions."""
    table = MatrixTable.named(key)
    pieces: list[tuple[int, ...]] = []
    uses: list[tuple[int, ...]] = []
    for piece, of_piece in table.pieces.items():
        pieces.append((*piece, len(uses), len(uses) + len(of_piece)))
        uses += of_piece
    with torch.inference_mode(False):
        return (
            table.numbers.to(device),
            torch.tensor(pieces, device=device),
            torch.tensor(uses, device=device),
        )


SOURCE = """
def assemble(NUMBERS, VALUES, MATRICES, W1, W2, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    mine = NUMBERS + tl.program_id(0) * 10
    start, stride = tl.load(mine), tl.load(mine + 1)
    rows, columns = tl.load(mine + 2), tl.load(mine + 3)
    start_1, stride_1 = tl.load(mine + 4), tl.load(mine + 5)
    start_2, stride_2 = tl.load(mine + 6), tl.load(mine + 7)
    paths, value = tl.load(mine + 8), tl.load(mine + 9)
    u = (tl.program_id(1) * ROWS + tl.arange(0, ROWS))[:, None]
    w = (tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    inside = (u < rows) & (w < columns)
    total = tl.zeros((ROWS, COLUMNS), MATRICES.dtype.element_ty)
    for p in range(0, paths):
        first = tl.load(W1 + start_1 + p * stride_1 + u * columns + w, mask=inside, other=0.0)
        second = tl.load(W2 + start_2 + p * stride_2 + w, mask=w < columns, other=0.0)
        total += first * (tl.load(VALUES + value + p) * second)
    tl.store(MATRICES + start + u * stride + w, total, mask=inside)


def gradients(PIECES, USES, VALUES, G, W1, W2, OF_W1, OF_W2, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    mine = PIECES + tl.program_id(0) * 6
    at_1, at_2 = tl.load(mine), tl.load(mine + 1)
    rows, columns = tl.load(mine + 2), tl.load(mine + 3)
    first_use, last_use = tl.load(mine + 4), tl.load(mine + 5)
    w = (tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    second = tl.load(W2 + at_2 + w, mask=w < columns, other=0.0)
    of_second = tl.zeros((ROWS, COLUMNS), W1.dtype.element_ty)
    for first_row in range(0, rows, ROWS):
        u = (first_row + tl.arange(0, ROWS))[:, None]
        inside = (u < rows) & (w < columns)
        total = tl.zeros((ROWS, COLUMNS), W1.dtype.element_ty)
        for use in range(first_use, last_use):
            start, stride = tl.load(USES + use * 3), tl.load(USES + use * 3 + 1)
            value = tl.load(VALUES + tl.load(USES + use * 3 + 2))
            total += value * tl.load(G + start + u * stride + w, mask=inside, other=0.0)
        place = at_1 + u * columns + w
        of_second += total * tl.load(W1 + place, mask=inside, other=0.0)
        tl.store(OF_W1 + place, total * second, mask=inside)
    tl.store(OF_W2 + at_2 + w, tl.sum(of_second, 0)[None, :], mask=w < columns)
"""
