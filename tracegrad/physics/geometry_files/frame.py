"""One geometry of a file, with what the file says beside elements and coordinates."""

from dataclasses import dataclass, field
from typing import Any

from ase import Atoms


@dataclass(frozen=True, eq=False)
class Statement:
    """A name and a value in a file, such as charge=1 in a comment line or the column initial_magmoms.

    Args:
        place: file, and line or frame.
        key: the name as the file writes it.
        value: text, a number, or an array.
        column: it has one value for each atom.
    """

    place: str
    key: str
    value: Any
    column: bool = False

    def __str__(self) -> str:
        return f"column {self.key}" if self.column else f"{self.key}={self.value}"


@dataclass(frozen=True, eq=False)
class Frame:
    """A geometry, not checked yet.

    Args:
        atoms: elements, positions (angstrom), cell (angstrom) and the directions of periodicity.
        place: the file, with the number of the frame where there are several.
        statements: what the file says besides, as far as it may be about charge and spin.
        pbc: how the file says along which lattice vectors the geometry is periodic, such as pbc="F F F".
    """

    atoms: Atoms
    place: str
    statements: list[Statement] = field(default_factory=list)
    pbc: str = ""
