"""C++ form of the assembly of dense matrices."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tracegrad.ops import native
from tracegrad.ops.errors import OperatorIndexError

FUNCTION = native.Function("assemble", "iiiippppppp")


def assemble(
    on_site: Tensor, pairs: Tensor, atoms: Tensor, slots: Tensor, spans: Tensor, subtract: Sequence[Tensor]
) -> Tensor | None:
    """The form of the operator `assemble` for CPUs."""
    library = native.file_library("assembly.cpp", on_site.dtype, FUNCTION)
    if library is None:
        return None
    (molecules, n), dim = atoms.shape, on_site.shape[1]
    for first, count, edge in spans.tolist():  # numbers of Python do not overflow
        within = 0 <= first <= first + count <= len(on_site) and 0 <= edge <= edge + count * (
            count - 1
        ) <= len(pairs)
        if not within or count < 1:
            raise OperatorIndexError(
                f"a molecule of {count} atoms from atom {first} and pair {edge} is not within {len(on_site)} atoms "
                f"and {len(pairs)} pairs"
            )
    if atoms.numel() and not ((atoms >= 0) & (atoms < spans[:, 1:2])).all():
        raise OperatorIndexError("an orbital belongs to an atom that its molecule does not have")
    native.index("slots", slots.flatten(), dim)
    out = on_site.new_empty(molecules, n, n, dtype=torch.float64 if subtract else on_site.dtype)
    inputs = [x.contiguous() for x in (on_site, pairs, atoms, slots, spans)]
    triangles = [x.contiguous() for x in subtract]
    of_triangles = native.pointers(triangles) if triangles else None
    pointers = [*map(native.pointer, inputs), of_triangles, native.pointer(out)]
    native.in_threads(lambda first, last: library.assemble(first, last, n, dim, *pointers), molecules, n * n)
    return out
