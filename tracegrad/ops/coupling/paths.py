"""Which degrees a Clebsch-Gordan product couples."""

from dataclasses import dataclass

from tracegrad.ops.named_table import NamedTable


@dataclass(frozen=True)
class CouplingPaths(NamedTable):
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
