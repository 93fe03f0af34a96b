"""Checks of molecular geometries where they enter."""

import numpy as np
from jaxtyping import Float, Int

from tracegrad.errors import DataError


def check_positions(
    numbers: Int[np.ndarray, "..."], positions: Float[np.ndarray, "..."], name: str, closest: float
) -> None:
    """Raise `DataError` unless there are atoms, one finite position each, and none on top of each other.

    Args:
        numbers: atomic numbers, should be (atoms,).
        positions: angstrom, should be (atoms, 3).
        name: what messages call the molecule.
        closest: smallest distance of two atoms that is no mistake, angstrom.
    """
    if numbers.ndim != 1 or len(numbers) == 0 or positions.shape != (len(numbers), 3):
        raise DataError(
            f"{name}: numbers of shape (atoms,) and positions of shape (atoms, 3) are needed, "
            f"with at least one atom, not {numbers.shape} and {positions.shape}"
        )
    if not np.isfinite(positions).all():
        raise DataError(f"{name}: a coordinate is not a finite number")
    distances = np.linalg.norm(positions[:, None] - positions, axis=-1)
    np.fill_diagonal(distances, np.inf)
    if distances.min() < closest:
        i, j = np.unravel_index(distances.argmin(), distances.shape)
        raise DataError(
            f"{name}: atoms {i} and {j} are {distances.min():.3f} angstrom apart; "
            "are the coordinates in angstrom?"
        )
