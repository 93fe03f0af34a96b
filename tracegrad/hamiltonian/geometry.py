"""Check of the geometry of a molecule that a user passes in."""

import numpy as np
from jaxtyping import Float, Int

from tracegrad.errors import DataError


def check_positions(
    numbers: Int[np.ndarray, "..."], positions: Float[np.ndarray, "..."], name: str, closest: float
) -> None:
    """Check that there are atoms with one finite position each, no two of them at the same place.

    Args:
        numbers: atomic numbers; (atoms,) is required.
        positions: angstrom; (atoms, 3) is required.
        name: name of the molecule in messages.
        closest: smallest distance between two atoms that is accepted, angstrom.

    Raises:
        DataError: one of these conditions does not hold.
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
