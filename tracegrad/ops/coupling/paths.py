"""Which degrees a Clebsch-Gordan product couples."""

import hashlib
from dataclasses import dataclass

# Operators take strings and numbers beside tensors, but no objects; a product is named by its key in this table.
_REGISTERED: dict[str, "CouplingPaths"] = {}


@dataclass(frozen=True)
class CouplingPaths:
    """The paths of a product.

    Args:
        paths: degrees (l1, l2, l3) and coefficient of each path.
        degrees: highest degree of a, b and the output.
        shared: b is [m2, items] and has the same value for all channels.
    """

    paths: tuple[tuple[tuple[int, int, int], float], ...]
    degrees: tuple[int, int, int]
    shared: bool

    @property
    def dims(self) -> tuple[int, int, int]:
        """Numbers of components of a, b and the output."""
        first, second, third = ((degree + 1) ** 2 for degree in self.degrees)
        return first, second, third

    @property
    def targets(self) -> list[int]:
        """First component of the output that each path adds to."""
        return [l3**2 for (_, _, l3), _ in self.paths]

    def register(self) -> str:
        """The key of these paths; equal paths have equal keys."""
        key = hashlib.sha256(repr(self).encode()).hexdigest()[:16]
        _REGISTERED[key] = self
        return key


def registered_paths(key: str) -> CouplingPaths:
    """The paths that were registered under a key."""
    return _REGISTERED[key]
