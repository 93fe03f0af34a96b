"""The linear map from the numbers of a feature to the elements of a block, the same for all items."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tracegrad.numerics.constants import Constant
from tracegrad.ops import native
from tracegrad.ops.errors import OperatorArgumentError
from tracegrad.ops.named_table import NamedTable

ZERO = 1e-12  # smaller coefficients are rounding errors


class ConstantIndex:
    """Whole numbers with a copy on each device that asked for them."""

    def __init__(self, values: Int[Tensor, " n"]):
        with torch.inference_mode(False):  # as in `Constant`
            self._copies = {torch.device("cpu"): values.detach().to("cpu", copy=True)}

    def __call__(self, device: torch.device) -> Int[Tensor, " n"]:
        """The numbers on a device; they are cached, do not write into them."""
        if device not in self._copies:
            with torch.inference_mode(False):
                self._copies[device] = self._copies[torch.device("cpu")].to(device)
        return self._copies[device]


@dataclass(frozen=True)
class SparseMap:
    """A sparse matrix y = A x in compressed rows.

        y[targets[r]] = sum over k = starts[r] .. starts[r + 1] - 1 of values[k] x[columns[k]]

    Args:
        targets: which number of y each row computes; rows that read the same numbers of x should be adjacent.
        starts: first entry of each row, and the number of all entries.
        columns: which number of x each entry multiplies.
        values: of the entries.
        outputs: length of y; each number is computed by one row.
        inputs: length of x, as far as entries read it.
    """

    targets: ConstantIndex
    starts: ConstantIndex
    columns: ConstantIndex
    values: Constant
    outputs: int
    inputs: int

    @classmethod
    def of(
        cls,
        rows: Int[Tensor, " entries"],
        columns: Int[Tensor, " entries"],
        values: Float[Tensor, " entries"],
    ) -> "SparseMap":
        """From the entries of the matrix, where those of one row are adjacent.

        Raises:
            OperatorArgumentError: entries of a row that are not adjacent, or more of rows, columns or values than of
                the others.
            OperatorIndexError: rows that are not numbered 0 .. outputs - 1.
        """
        if not len(rows) == len(columns) == len(values):
            raise OperatorArgumentError(
                f"{len(rows)} rows, {len(columns)} columns and {len(values)} values; each entry has one"
            )
        targets, counts = torch.unique_consecutive(rows, return_counts=True)
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        inputs = int(columns.max()) + 1 if len(columns) else 0
        if len(targets.unique()) < len(targets):
            raise OperatorArgumentError("entries of one row are not adjacent; sort them by their rows")
        checked = (
            native.index("rows", targets, len(targets), torch.int32),
            native.index("starts", starts, len(values) + 1, torch.int32),
            native.index("columns", columns, inputs, torch.int32),
        )
        to, first, of = (ConstantIndex(index) for index in checked)
        return cls(to, first, of, Constant(values), len(targets), inputs)


@dataclass(frozen=True)
class ExpansionMap(NamedTable):
    """The map as dense matrices that many parts of a block share.

    Part t of a block is a number of vectors, all of them multiplied by the same matrix:

        elements[places_t[v, e]] = sum over c of tables_t[e, c] numbers[columns_t[v, c]]

    Args:
        tables: for each part the matrix.
        columns, places: for each part the positions of the numbers and of the elements; each number and each element
            has one place.

    Attributes:
        forward, transpose: the same as sparse matrices.
    """

    tables: Sequence[Float[Tensor, "_e _c"]]
    columns: Sequence[Int[Tensor, "_v _c"]]
    places: Sequence[Int[Tensor, "_v _e"]]
    forward: SparseMap = field(init=False)
    transpose: SparseMap = field(init=False)
    _dense: list[Constant] = field(init=False)
    _columns: list[ConstantIndex] = field(init=False)
    _order: ConstantIndex = field(init=False)

    def __post_init__(self) -> None:
        back = torch.argsort(torch.cat([x.flatten() for x in self.places]))
        made = {
            "forward": self._sparse(transposed=False),
            "transpose": self._sparse(transposed=True),
            "_dense": [Constant(table) for table in self.tables],
            "_columns": [ConstantIndex(x.flatten()) for x in self.columns],
            "_order": ConstantIndex(back),
        }
        self.__dict__.update(made)
        super().__post_init__()

    def _content(self) -> bytes:
        tensors = (*self.tables, *self.columns, *self.places)
        return b"".join(str(tuple(x.shape)).encode() + x.contiguous().numpy().tobytes() for x in tensors)

    def dense(self, numbers: Float[Tensor, "n numbers"]) -> Float[Tensor, "n elements"]:
        """The map by dense matrices."""
        parts = []
        for table, columns, at in zip(self._dense, self._columns, self.columns, strict=True):
            vectors = numbers.index_select(1, columns(numbers.device)).unflatten(1, at.shape)
            parts.append((vectors @ table(numbers).T).flatten(1))
        return torch.cat(parts, dim=1).index_select(1, self._order(numbers.device))

    def _sparse(self, *, transposed: bool) -> SparseMap:
        rows, columns, values = [], [], []
        for table, numbers, elements in zip(self.tables, self.columns, self.places, strict=True):
            to, of = (numbers, elements) if transposed else (elements, numbers)
            matrix = table.T if transposed else table
            at = (matrix.abs() > ZERO).nonzero().T
            rows.append(to[:, at[0]].flatten())
            columns.append(of[:, at[1]].flatten())
            values.append(matrix[at[0], at[1]].repeat(len(to)))
        return SparseMap.of(torch.cat(rows), torch.cat(columns), torch.cat(values))
