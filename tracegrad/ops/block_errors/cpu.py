"""C++ form of the errors of blocks."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tracegrad.ops import native

FUNCTIONS = native.Function("sums", "iiiiiiddpppppp"), native.Function("gradients", "iiiiiiddppppppp")
OPERATIONS = 8  # for each element, roughly


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
) -> tuple[Tensor, Tensor] | None:
    """The form of the operator `block_errors` for CPUs."""
    of_atom = native.index("sample", sample, samples)
    per_block = blocks.new_empty(2, len(blocks))
    if not _run("sums", (blocks, labels, rows, columns), ends, (square, modulus), per_block):
        return None
    sums = per_block.new_zeros(2, samples).index_add_(1, of_atom.index_select(0, ends[0]), per_block)
    return sums[0].clone(), sums[1].clone()


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
    """The gradient of the operator `block_errors` for CPUs."""
    of_block = gradients[0].index_select(0, sample.index_select(0, ends[0]))
    made = torch.empty_like(blocks, memory_format=torch.contiguous_format)
    if not _run("gradients", (blocks, labels, rows, columns), ends, (square, modulus), of_block, made):
        return None
    return [x for x, flag in ((made, needed[0]), (-made, needed[1])) if flag]


def _run(
    name: str, inputs: Sequence[Tensor], ends: Tensor, weights: tuple[float, float], *others: Tensor
) -> bool:
    """Call a function of the library in threads, if there is one."""
    blocks, labels, rows, columns = (x.contiguous() for x in inputs)
    library = native.file_library("block_errors.cpp", blocks.dtype, *FUNCTIONS)
    if library is None:
        return False
    function, shape = getattr(library, name), blocks.shape
    atoms = native.index("ends", ends.flatten(), len(rows))
    pointers = [native.pointer(x) for x in (blocks, labels, rows, columns, atoms, *others)]
    native.in_threads(
        lambda first, last: function(first, last, *shape, *weights, *pointers),
        len(blocks),
        OPERATIONS * blocks.numel(),
    )
    return True
