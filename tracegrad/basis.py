"""Atomic orbital bases: which shells each element has, and where they lie in a common layout.

Files order the orbitals of an atom as their program does; networks need one layout for all elements. The
*union layout* holds, degree after degree, as many shells as the richest element has. The n-th shell of
degree l of an element fills the n-th union shell of degree l; the rest is padding. Inside a shell the union
layout follows e3nn, which for standard real spherical harmonics means m = -l .. l (p = y, z, x).
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Int64

from tracegrad.errors import BasisError

# Union position m = -l .. l -> position in the file's shell; a degree that is absent keeps the order.
CONVENTIONS: dict[str, dict[int, tuple[int, ...]]] = {
    "pyscf": {1: (1, 2, 0)},  # p stored as x, y, z
}

_FIRST_ROW = (0, 0, 1)
_SECOND_ROW = (0, 0, 0, 1, 1, 2)
_THIRD_ROW = (0, 0, 0, 0, 1, 1, 1, 2)
# Degrees of the contracted shells of def2-SVP (Weigend and Ahlrichs 2005), H to Ar, in PySCF's order.
DEF2_SVP: dict[int, tuple[int, ...]] = {
    **dict.fromkeys((1, 2), _FIRST_ROW),
    **dict.fromkeys((3, 4), (0, 0, 0, 1, 1)),
    **dict.fromkeys(range(5, 11), _SECOND_ROW),
    11: (0, 0, 0, 0, 1, 1, 2),
    **dict.fromkeys(range(12, 19), _THIRD_ROW),
}
QH9_ELEMENTS = (1, 6, 7, 8, 9)


@dataclass(frozen=True)
class OrbitalBasis:
    """The shells of each element and the union layout over them.

    Args:
        shells: degrees of the shells of each element (by atomic number), in the order of the files.
        convention: order of the orbitals inside a shell, a key of ``CONVENTIONS``.
        name: what messages call this basis.
    """

    shells: Mapping[int, tuple[int, ...]]
    convention: str = "pyscf"
    name: str = "basis"
    union: tuple[int, ...] = field(init=False)
    slots: Int64[np.ndarray, "elements dim"] = field(init=False, repr=False, compare=False)
    sizes: Int64[np.ndarray, " elements"] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.shells:
            raise BasisError(f"{self.name}: no elements; give at least one atomic number")
        if self.convention not in CONVENTIONS:
            raise BasisError(f"unknown orbital convention {self.convention!r}; known: {sorted(CONVENTIONS)}")
        counts: Counter[int] = Counter()
        for degrees in self.shells.values():
            counts |= Counter(degrees)
        object.__setattr__(self, "union", tuple(sorted(counts.elements())))
        slots = np.full((max(self.shells) + 1, self.dim), -1, dtype=np.int64)
        sizes = np.zeros(max(self.shells) + 1, dtype=np.int64)
        for number, degrees in self.shells.items():
            slots[number] = self._slots(degrees)
            sizes[number] = sum(2 * degree + 1 for degree in degrees)
        object.__setattr__(self, "slots", slots)
        object.__setattr__(self, "sizes", sizes)

    @classmethod
    def def2_svp(cls, elements: Iterable[int] = QH9_ELEMENTS) -> "OrbitalBasis":
        """def2-SVP in PySCF's order for the given atomic numbers (default: the elements of QH9)."""
        missing = sorted(set(elements) - DEF2_SVP.keys())
        if missing:
            raise BasisError(f"def2-SVP is tabulated for atomic numbers 1-18 here, not for {missing}")
        return cls({int(z): DEF2_SVP[z] for z in sorted(set(elements))}, "pyscf", "def2-SVP")

    @property
    def dim(self) -> int:
        """Orbitals of the union layout (14 for def2-SVP of H, C, N, O, F)."""
        return sum(2 * degree + 1 for degree in self.union)

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers this basis covers, ascending."""
        return tuple(sorted(self.shells))

    @property
    def mask(self) -> Bool[np.ndarray, "elements dim"]:
        """Union slots that an element (row: atomic number) fills."""
        return self.slots >= 0

    @property
    def shell_mask(self) -> Bool[np.ndarray, "elements shells"]:
        """Union shells that an element (row: atomic number) has."""
        return self.mask[:, self.shell_starts]

    @property
    def shell_starts(self) -> Int64[np.ndarray, " shells"]:
        """First union slot of each union shell."""
        lengths = [2 * degree + 1 for degree in self.union]
        return np.cumsum([0, *lengths[:-1]])

    def check(self, numbers: Int64[np.ndarray, " atoms"], where: str) -> None:
        """Raise `BasisError` unless every atomic number is covered; ``where`` names the source."""
        unknown = sorted({int(z) for z in numbers} - self.shells.keys())
        if unknown:
            raise BasisError(
                f"{where}: atomic numbers {unknown} have no entry in {self.name} of elements "
                f"{list(self.elements)}; add them to the basis elements of the configuration"
            )

    def _slots(self, degrees: tuple[int, ...]) -> Int64[np.ndarray, " dim"]:
        starts: dict[int, list[int]] = {}
        offset = 0
        for degree in degrees:
            starts.setdefault(degree, []).append(offset)
            offset += 2 * degree + 1
        permutations = CONVENTIONS[self.convention]
        slots: list[int] = []
        for degree in self.union:
            present = starts.get(degree)
            if present:
                start = present.pop(0)
                slots += [start + i for i in permutations.get(degree, range(2 * degree + 1))]
            else:
                slots += [-1] * (2 * degree + 1)
        return np.array(slots)
