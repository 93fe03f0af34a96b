"""C++ form of the expansion into blocks: weights are read by kind, and blocks are added from a sparse table."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tracegrad.ops import native
from tracegrad.ops.expansion.shells import ExpansionShells

FUNCTIONS = (
    native.Function("forward", "pppp" + "ppiiiii" + "pppii" + "ii"),
    native.Function("backward", "pppp" + "ppiiiii" + "pppii" + "ii"),
    native.Function("backward_weights", "ppp" + "ppiiiii" + "ii"),
)


def expand(x: Tensor, weights: Tensor, bias: Tensor, kind: Tensor, key: str) -> Tensor | None:
    """The form of the operator `expand_blocks` for CPUs."""
    shells = ExpansionShells.named(key)
    out = x.new_empty(x.shape[1], shells.dim, shells.dim)
    tensors = (x.contiguous(), weights.index_select(1, shells.order), bias.contiguous(), out)
    return out if _run("forward", shells, tensors, x, kind, len(weights)) else None


def expand_gradient(
    gradients: Sequence[Tensor],
    x: Tensor,
    weights: Tensor,
    bias: Tensor,
    kind: Tensor,
    key: str,
    needed: Sequence[bool],
) -> list[Tensor] | None:
    """The gradient of the operator `expand_blocks` for CPUs."""
    shells = ExpansionShells.named(key)
    x, ordered = x.contiguous(), weights.index_select(1, shells.order)
    of_x, of_mixed = x.new_empty(x.shape), x.new_empty(x.shape[1], shells.components)
    tensors = (gradients[0].contiguous(), ordered, of_mixed, of_x)
    if not _run("backward", shells, tensors, x, kind, len(weights)):
        return None
    made = [of_x] if needed[0] else []
    if needed[1]:
        of_ordered = torch.zeros_like(ordered)
        _run("backward_weights", shells, (of_mixed, x, of_ordered), x, kind, len(weights))
        made.append(of_ordered.index_select(1, shells.order.argsort()))
    if needed[2]:
        of_bias = of_mixed[:, : shells.multiplicities[0]]
        made.append(torch.zeros_like(bias).index_add_(0, kind, of_bias))
    return made


def _run(
    name: str, shells: ExpansionShells, tensors: Sequence[Tensor], x: Tensor, kind: Tensor, kinds: int
) -> bool:
    """Call a function of the library, if there is one; threads share the items, or the mixtures of the weights."""
    library = native.file_library("block_expansion.cpp", x.dtype, *FUNCTIONS)
    if library is None:
        return False
    n, c = x.shape[1:]
    index, counts = native.index("kind", kind, kinds), torch.tensor(shells.multiplicities)
    arguments = [*map(native.pointer, (*tensors, index, counts))]
    arguments += [len(counts), n, c, shells.mixtures, shells.components]
    rows, columns, exact = shells.entries
    values = exact(x)
    if name != "backward_weights":
        arguments += [*map(native.pointer, (rows, columns, values)), len(rows), shells.dim**2]
    function = getattr(library, name)

    def share(first: int, last: int) -> None:
        function(*arguments, first, last)

    count = shells.mixtures if name == "backward_weights" else n
    native.in_threads(share, count, n * (2 * shells.components * c + 2 * len(rows)))
    return True
