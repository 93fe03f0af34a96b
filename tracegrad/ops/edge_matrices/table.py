"""Which numbers of the weights make which parts of the matrices."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from itertools import accumulate, pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from tracegrad.numerics.constants import Constant
from tracegrad.ops.errors import OperatorArgumentError
from tracegrad.ops.named_table import NamedTable


@dataclass(frozen=True)
class Submatrix:
    """What one coupling contributes for one input, or a part of a matrix that is zero (no paths).

    With a coefficient t_p for each path p,

        M[row + u, column + w] = sum over p of t_p w1[p, u, w] w2[p, w]

    where w1[p, u, w] is number start_1 + p stride_1 + u columns + w, and w2[p, w] number start_2 + p stride_2 + w of
    the flat weights.

    Args:
        matrix: number of the matrix.
        row, column: where the submatrix starts.
        rows, columns: its size.
        start_1, stride_1: where it starts in w1, and the stride from path to path.
        start_2, stride_2: the same in w2.
        paths: number of paths.
    """

    matrix: int
    row: int
    column: int
    rows: int
    columns: int
    start_1: int = 0
    stride_1: int = 0
    start_2: int = 0
    stride_2: int = 0
    paths: int = 0


class MatrixTable(NamedTable):
    """All submatrices of some matrices, which fill them.

    Args:
        shapes: of the matrices.
        submatrices: each with its coefficients t.

    Raises:
        OperatorArgumentError: a submatrix that is not within its matrix, starts before its weights, overlaps another
            one, or has another number of coefficients than paths; or a matrix that is not filled.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, int]],
        submatrices: Sequence[tuple[Submatrix, Float[Tensor, " paths"]]],
    ):
        self.shapes = list(shapes)
        self.submatrices = [submatrix for submatrix, _ in submatrices]
        filled, ends = [torch.zeros(shape, dtype=torch.uint8) for shape in shapes], [(0, 0)]
        for submatrix, values in submatrices:
            within = (
                min(astuple(submatrix)) >= 0
                and submatrix.paths == len(values)
                and submatrix.matrix < len(shapes)
                and submatrix.row + submatrix.rows <= shapes[submatrix.matrix][0]
                and submatrix.column + submatrix.columns <= shapes[submatrix.matrix][1]
            )
            if not within:
                raise OperatorArgumentError(
                    f"{submatrix} with {len(values)} values; it must lie within matrices of the shapes "
                    f"{self.shapes}, with a value for each path"
                )
            area = filled[submatrix.matrix][submatrix.row :, submatrix.column :]
            area = area[: submatrix.rows, : submatrix.columns]
            if area.any():
                raise OperatorArgumentError(
                    f"{submatrix}: overlaps another submatrix; each must have separate rows or columns"
                )
            area.fill_(1)
            if submatrix.paths:
                last = submatrix.paths - 1
                end_1 = submatrix.start_1 + last * submatrix.stride_1 + submatrix.rows * submatrix.columns
                ends.append((end_1, submatrix.start_2 + last * submatrix.stride_2 + submatrix.columns))
        if not all(matrix.all() for matrix in filled):
            raise OperatorArgumentError("some numbers of the matrices belong to no submatrix; each needs one")
        self.least = tuple(map(max, zip(*ends, strict=True)))  # how many numbers w1 and w2 must have at least
        self.values = Constant(torch.cat([values for _, values in submatrices]))
        *starts, self.size = accumulate((rows * columns for rows, columns in shapes), initial=0)
        first_values = accumulate((s.paths for s in self.submatrices), initial=0)
        # What the kernels read of each submatrix: the position of its first number in the flat matrices, the numbers
        # from row to row there, everything from ``rows`` on, and the position of its first coefficient.
        self.numbers = torch.tensor(
            [
                (
                    starts[s.matrix] + s.row * shapes[s.matrix][1] + s.column,
                    shapes[s.matrix][1],
                    *astuple(s)[3:],
                    k,
                )
                for s, k in zip(self.submatrices, first_values, strict=False)
            ],
            dtype=torch.int64,
        )
        self.pieces = self._pieces()
        self.__post_init__()

    def _pieces(self) -> dict[tuple[int, int, int, int], list[tuple[int, int, int]]]:
        """The pieces w1[p, :, :] and w2[p, :] of the weights, and what each contributes to.

        Returns:
            For each piece, given by where it starts in w1 and in w2, its rows and its columns: where it is added
            to the flat matrices, the numbers from row to row there, and the positions of the coefficients.
        """
        pieces: dict[tuple[int, int, int, int], list[tuple[int, int, int]]] = {}
        for start, stride, rows, columns, *weights, paths, value in self.numbers.tolist():
            start_1, stride_1, start_2, stride_2 = weights
            for p in range(paths):
                piece = (start_1 + p * stride_1, start_2 + p * stride_2, rows, columns)
                pieces.setdefault(piece, []).append((start, stride, value + p))
        for intervals in (
            sorted((at, at + rows * columns) for at, _, rows, columns in pieces),
            sorted((at, at + columns) for _, at, _, columns in pieces),
        ):
            if any(start < end for (_, end), (start, _) in pairwise(intervals)):
                raise OperatorArgumentError(
                    "a number of the weights belongs to two couplings; each needs its own"
                )
        return pieces

    def _content(self) -> bytes:
        exact = self.values(torch.empty(0, dtype=torch.float64)).tolist()
        return repr((self.shapes, self.submatrices, exact)).encode()
