"""C++ form of the expansion into blocks: one pass over memory (``csrc/shell_pairs.cpp``)."""

import ctypes
from collections.abc import Sequence

from torch import Tensor

from tracegrad.ops import native
from tracegrad.ops.shell_pairs.maps import ExpansionMap, SparseMap

BYTES = 64  # of a vector; compilers split such vectors for processors with shorter registers
ARGUMENTS = "iiippppp" + "iipppp"
FUNCTIONS = (native.Function("expand", ARGUMENTS), native.Function("contract", ARGUMENTS))


def expand(x: Sequence[Tensor], rotations: Sequence[Tensor | None], key: str) -> Tensor | None:
    """The form of the operator `expand` for CPUs."""
    sparse = ExpansionMap.named(key).forward
    blocks = x[0].new_empty(len(x[0]), sparse.outputs)
    return blocks if _run("expand", sparse, [part.contiguous() for part in x], rotations, blocks) else None


def expand_gradient(
    gradients: Sequence[Tensor],
    x: Sequence[Tensor],
    rotations: Sequence[Tensor | None],
    key: str,
    needed: Sequence[bool],
) -> list[Tensor] | None:
    """The gradient of the operator `expand` for CPUs."""
    of_x = [part.new_empty(part.shape) for part in x]
    if not _run("contract", ExpansionMap.named(key).transpose, of_x, rotations, native.dense(gradients[0])):
        return None
    return [part for part, flag in zip(of_x, needed, strict=False) if flag]


def _run(
    name: str,
    sparse: SparseMap,
    x: Sequence[Tensor],
    rotations: Sequence[Tensor | None],
    blocks: Tensor,
) -> bool:
    """Call a function of the library, if there is one; threads share the items."""
    library = native.file_library("shell_pairs.cpp", blocks.dtype, *FUNCTIONS)
    if library is None:
        return False
    n, count, lanes = len(blocks), len(x), BYTES // blocks.element_size()
    turns = [None if r is None else r.contiguous() for r in rotations]
    values, targets, starts, columns = (
        sparse.values(blocks),
        *(index(blocks.device) for index in (sparse.targets, sparse.starts, sparse.columns)),
    )
    fixed = (
        count,
        native.pointers(x),
        *((ctypes.c_int64 * count)(*(part.shape[k] for part in x)) for k in (1, 2)),
        native.pointers(turns),
        native.pointer(blocks),
        blocks.shape[1],
        sparse.outputs,
        *map(native.pointer, (targets, starts, columns, values)),
    )
    function = getattr(library, name)

    def share(first: int, last: int) -> None:
        function(first * lanes, min(last * lanes, n), *fixed)

    native.in_threads(share, -(-n // lanes), n * len(values))
    return True
