"""C++ of inner and crossed products of terms; the source is csrc/terms.cpp."""

from collections.abc import Callable, Sequence

from torch import Tensor

from tracegrad.ops import native

OPERATIONS = 4  # for each number of the terms
FUNCTIONS = native.Function("inner", "ppppdiiiii"), native.Function("crossed", "ppppppdiiiii")


def add_inner(
    u: Tensor,
    derivative: Tensor | None,
    x: Sequence[Tensor],
    y: Sequence[Tensor] | None,
    scales: Sequence[float],
) -> bool:
    """Add the inner products of x to u, and their derivative in the direction of y, if given, to ``derivative``.

    All tensors are contiguous and of one dtype. Returns whether there is a kernel.
    """
    library = native.file_library("terms.cpp", u.dtype, *FUNCTIONS)
    if library is None:
        return False
    for k, (terms, scale) in enumerate(zip(x, scales, strict=True)):
        _run(library.inner, (u, derivative, terms, None if y is None else y[k]), scale, terms)
    return True


def write_crossed(
    out: Sequence[Tensor],
    total: Sequence[Tensor] | None,
    x: Sequence[Tensor],
    y: Sequence[Tensor] | None,
    factor: Tensor,
    factor_x: Tensor | None,
    scales: Sequence[float],
) -> bool:
    """Write the crossed products of x with ``factor`` to ``out``.

    With y, those of x with ``factor_x`` plus those of y with ``factor`` are written to ``total``. All tensors are
    contiguous and of one dtype. Returns whether there is a kernel.
    """
    library = native.file_library("terms.cpp", factor.dtype, *FUNCTIONS)
    if library is None:
        return False
    for k, (terms, scale) in enumerate(zip(x, scales, strict=True)):
        also = (None, None) if total is None or y is None else (total[k], y[k])
        _run(library.crossed, (out[k], also[0], terms, also[1], factor, factor_x), scale, terms)
    return True


def _run(
    function: Callable[..., None], tensors: Sequence[Tensor | None], scale: float, terms: Tensor
) -> None:
    m, n, _, width = terms.shape
    addresses = list(map(native.pointer, tensors))

    def share(first: int, last: int) -> None:
        function(*addresses, scale, first, last, m, n, width)

    native.in_threads(share, n, OPERATIONS * terms.numel())
