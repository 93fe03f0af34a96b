"""Comparison of the arguments of an operator with the shapes that it needs."""

from torch import Tensor

from tracegrad.ops.errors import OperatorArgumentError


def check_shapes(operator: str, **expected: tuple[Tensor | None, tuple[int, ...]]) -> None:
    """Refuse tensors of other shapes, numbers of different dtypes and indices that are no whole numbers.

    Args:
        operator: its name in messages.
        expected: for each argument the tensor, or None if it is missing, and the shape that it must have. Tensors
            whose names end in "index" are indices.

    Raises:
        OperatorArgumentError: an argument does not fit.
    """
    given = {name: (x, tuple(shape)) for name, (x, shape) in expected.items() if x is not None}
    wrong = [
        f"{name} has the shape {tuple(x.shape)} instead of {shape}"
        for name, (x, shape) in given.items()
        if tuple(x.shape) != shape
    ]
    dtypes = {x.dtype for name, (x, _) in given.items() if not name.endswith("index")}
    if len(dtypes) > 1:
        wrong.append(f"different dtypes: {', '.join(sorted(map(str, dtypes)))}")
    wrong += [
        f"{name} has the dtype {x.dtype}; an index has whole numbers"
        for name, (x, _) in given.items()
        if name.endswith("index") and (x.is_floating_point() or x.is_complex())
    ]
    if wrong:
        raise OperatorArgumentError(f"{operator}: {'; '.join(wrong)}")


def size(x: Tensor, dim: int) -> int:
    """Length of a dimension, 0 if the tensor does not have it; for shapes that are still to be checked."""
    return x.shape[dim] if x.ndim > dim else 0
