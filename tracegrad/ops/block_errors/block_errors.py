"""The operator of the errors of blocks, summed over those elements of all blocks of a sample that are not padding.

For the difference d between block k and its label, the atoms r(k) of its rows and c(k) of its columns, and weights w
of the measures,

    error(s) = sum over k in sample s and over i, j of  w_square |d_ij|^2 + w_modulus |d_ij|,
    d_ij = rows[r(k), i] columns[c(k), j] (block_ij - label_ij),

and count(s) is the number of these elements, the sum of rows[r(k), i] columns[c(k), j]. A block belongs to the sample
of the atom of its rows. Elements are complex where they have two parts. The kernels store neither masks nor
differences.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Inexact, Int
from torch import Tensor

from tracegrad.ops.block_errors import cpu, gpu
from tracegrad.ops.errors import OperatorArgumentError
from tracegrad.ops.operator import Operator

MEASURES = ("mse", "mae")  # |d|^2 and |d|


def block_errors(
    blocks: Inexact[Tensor, "n row column"],
    labels: Inexact[Tensor, "n row column"],
    rows: Float[Tensor, "atoms row"],
    columns: Float[Tensor, "atoms column"],
    ends: Int[Tensor, "2 n"],
    sample: Int[Tensor, " atoms"],
    samples: int,
    measures: Sequence[str],
) -> tuple[Float[Tensor, " samples"], Float[Tensor, " samples"]]:
    """Error of each sample, summed over the elements of its blocks, and the number of these elements.

    Args:
        blocks, labels: real or complex.
        rows, columns: 1 for each row and column of a block that an atom has, 0 for padding.
        ends: atom of the rows and atom of the columns of each block.
        sample: of each atom.
        samples: number of samples.
        measures: those of `MEASURES` that are added.
    """
    dtype = torch.promote_types(blocks.dtype, labels.dtype)
    parts = [
        torch.view_as_real(x.to(dtype).resolve_conj()) if dtype.is_complex else x.to(dtype)[..., None]
        for x in (blocks, labels)
    ]
    masks = (x.to(parts[0].dtype) for x in (rows, columns))
    weights = (float(list(measures).count(measure)) for measure in MEASURES)
    return BLOCK_ERRORS(*parts, *masks, ends, sample, samples, *weights)


def _plain(
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
    mask = rows.index_select(0, ends[0])[:, :, None] * columns.index_select(0, ends[1])[:, None, :]
    difference = (blocks - labels) * mask[..., None]
    errors = difference.new_zeros(len(difference))
    if square:  # otherwise a square may overflow, and 0 times infinity is no number
        errors = errors + square * difference.square().sum((1, 2, 3))
    if modulus:
        complex_ = blocks.shape[3] == 2
        moduli = (torch.view_as_complex(difference) if complex_ else difference).abs()
        errors = errors + modulus * moduli.flatten(1).sum(1)
    totals = torch.stack([errors, mask.sum((1, 2))])
    sums = totals.new_zeros(2, samples).index_add(1, sample.index_select(0, ends[0]), totals)
    return sums[0].clone(), sums[1].clone()


def _outputs(
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
    return blocks.new_empty(samples), blocks.new_empty(samples)


def _check(
    blocks: Tensor, labels: Tensor, rows: Tensor, columns: Tensor, ends: Tensor, sample: Tensor, *_: object
) -> None:
    fits = (
        blocks.ndim == 4
        and blocks.shape[3] in (1, 2)
        and labels.shape == blocks.shape
        and rows.ndim == columns.ndim == 2
        and rows.shape[1] == blocks.shape[1]
        and columns.shape[1] == blocks.shape[2]
        and ends.shape == (2, len(blocks))
        and sample.shape == rows.shape[:1] == columns.shape[:1]
        and (len(sample) > 0 or len(blocks) == 0)
        and not ends.is_floating_point()
        and not sample.is_floating_point()
        and blocks.dtype == labels.dtype == rows.dtype == columns.dtype
    )
    if not fits:
        given = ", ".join(
            f"{name} {tuple(x.shape)} {x.dtype}"
            for name, x in (
                ("blocks", blocks),
                ("labels", labels),
                ("rows", rows),
                ("columns", columns),
                ("ends", ends),
                ("sample", sample),
            )
        )
        raise OperatorArgumentError(
            f"errors of blocks: {given}; (n, row, column, 1 or 2) twice, (atoms, row), (atoms, column) of one dtype "
            "and whole numbers (2, n) and (atoms,) are needed"
        )


BLOCK_ERRORS = Operator(
    "block_errors",
    "Tensor blocks, Tensor labels, Tensor rows, Tensor columns, Tensor ends, Tensor sample, SymInt samples, "
    "float square, float modulus",
    _plain,
    _outputs,
    check=_check,
    without_gradient=("rows", "columns"),
    results=2,
)
BLOCK_ERRORS.register("CPU", cpu.block_errors, cpu.block_errors_gradient)
BLOCK_ERRORS.register("CUDA", gpu.block_errors, gpu.block_errors_gradient)
