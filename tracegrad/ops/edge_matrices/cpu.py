"""The C++ form of `edge_matrices` (``csrc/edge_matrices.cpp``)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tracegrad.ops import native
from tracegrad.ops.edge_matrices.table import MatrixTable

FUNCTIONS = native.Function("assemble", "i" + "p" * 5), native.Function("gradients", "i" + "p" * 7)


def edge_matrices(w1: Tensor, w2: Tensor, key: str) -> Tensor | None:
    """The form of the operator `edge_matrices` for CPUs."""
    matrices = w1.new_empty(MatrixTable.named(key).size)
    return matrices if _run("assemble", key, matrices, w1, w2) else None


def edge_matrices_gradient(
    gradients: list[Tensor], w1: Tensor, w2: Tensor, key: str, needed: Sequence[bool]
) -> list[Tensor] | None:
    """The gradient of the operator `edge_matrices` for CPUs."""
    made = [torch.zeros_like(x, memory_format=torch.contiguous_format) for x in (w1, w2)]
    if not _run("gradients", key, gradients[0].contiguous(), w1, w2, *made):
        return None
    return [x for x, flag in zip(made, needed, strict=True) if flag]


def _run(name: str, key: str, matrices: Tensor, w1: Tensor, w2: Tensor, *of_weights: Tensor) -> bool:
    """Call a function of the library, if there is one."""
    table = MatrixTable.named(key)
    library = native.file_library("edge_matrices.cpp", w1.dtype, *FUNCTIONS)
    if library is None:
        return False
    w1, w2 = w1.contiguous(), w2.contiguous()
    tensors = (table.numbers, table.values(w1), matrices, w1, w2, *of_weights)
    addresses = [native.pointer(x) for x in tensors]
    function = getattr(library, name)
    native.in_threads(lambda first, last: function(len(table.numbers), *addresses), 1, 0)
    return True
