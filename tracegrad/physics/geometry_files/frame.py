"""One geometry of a file, with its statements on charge, spin and periodicity."""

from dataclasses import dataclass, field
from typing import Any

from ase import Atoms


@dataclass(frozen=True, eq=False)
class Statement:
    """A name and a value in a file, such as charge=1 in a comment line or the column initial_magmoms.

    Args:
        place: file, and line or frame, for messages.
        key: the name as in the file.
        value: text, a number, or an array.
        column: there is one value for each atom.
    """

    place: str
    key: str
    value: Any
    column: bool = False

    def __str__(self) -> str:
        return f"column {self.key}" if self.column else f"{self.key}={self.value}"


@dataclass(frozen=True, eq=False)
class Frame:
    """A geometry as read; charge, spin and periodicity are checked later, by `check_molecule` or `check_crystal`.

    Args:
        atoms: elements, positions (angstrom), cell (angstrom) and the directions of periodicity.
        place: the file, with the number of the frame if there are several, for messages.
        statements: everything else in the file that may concern charge and spin.
        pbc: the words of the file that determine the periodicity, such as pbc="F F F".
    """

    atoms: Atoms
    place: str
    statements: list[Statement] = field(default_factory=list)
    pbc: str = ""
