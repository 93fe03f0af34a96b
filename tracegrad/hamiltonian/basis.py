"""Atomic orbital bases: the shells of each element and their places in a layout that all elements share.

Each program orders the orbitals of an atom in its own way; a network needs one layout for all elements. For every
degree l, in ascending order, the *union layout* has as many shells as the element with most shells of that degree.
The n-th shell of degree l of an element fills the n-th union shell of degree l; the remaining slots are padding. The
orbitals of a union shell follow e3nn, which for standard real spherical harmonics means m = -l .. l (p = y, z, x).
Example, def2-SVP of H (s2p1) and C (s3p2d1); x is a shell of the element, - is padding:

    union shells   s  s  s  p  p  d      1 + 1 + 1 + 3 + 3 + 5 = 14 slots
    H              x  x  -  x  -  -
    C              x  x  x  x  x  x

With spin-orbit coupling the layout is repeated with spin outermost, in the files and in the union layout alike: first
all orbitals with spin up, then all with spin down. A pair of shells then has four basic blocks, uu, ud, du and dd.

With collinear spin there are two Hamiltonians without spin, one for each of ``SPINS``, in the layout above. A network
for both predicts one of them at a time: each sample is a structure with one spin.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Int64

from tracegrad.elements import NUMBERS, SYMBOLS
from tracegrad.errors import BasisError
from tracegrad.units import ANGSTROM_PER_BOHR

# permutation[m + l] is the position in the shell of the file; a degree without an entry keeps its order m = -l .. l.
CONVENTIONS: dict[str, dict[int, tuple[int, ...]]] = {
    "pyscf": {1: (1, 2, 0)},  # p stored as x, y, z
    # p as x, y, z; d as z2, x2-y2, xy, xz, yz; f as 5z3-3zr2, 5xz2-xr2, 5yz2-yr2, zx2-zy2, xyz, x3-3xy2, 3yx2-y3
    "openmx": {1: (1, 2, 0), 2: (2, 4, 0, 3, 1), 3: (6, 4, 2, 0, 1, 3, 5)},
    # m = 0, 1, -1, 2, -2, ...: p as z, x, y; d as z2, xz, yz, x2-y2, xy; files of ORCA and Psi4
    "psi4": {1: (2, 0, 1), 2: (4, 2, 0, 1, 3), 3: (6, 4, 2, 0, 1, 3, 5)},
}
# Unit of the energies in the files of each convention; H keeps it inside the program.
UNITS = {"pyscf": "hartree", "openmx": "eV", "psi4": "hartree"}
# Whether files of each convention hold crystals; the others hold molecules.
PERIODIC = {"pyscf": False, "openmx": True, "psi4": False}
LETTERS = "spdfghi"
SPINS = ("up", "down")  # of collinear calculations
# Shells of elements: ["Mo-s3p2d2"], {"Mo": "s3p2d2"} or {42: (0, 0, 0, 1, 1, 2, 2)}, see `OrbitalBasis.openmx`.
Shells = Sequence[str] | Mapping[int, str | Sequence[int]] | Mapping[str, str | Sequence[int]]

_FIRST_ROW = (0, 0, 1)
_SECOND_ROW = (0, 0, 0, 1, 1, 2)
_THIRD_ROW = (0, 0, 0, 0, 1, 1, 1, 2)
# Degrees of the contracted shells of def2-SVP (Weigend and Ahlrichs 2005), H to Kr, in PySCF's order.
DEF2_SVP: dict[int, tuple[int, ...]] = {
    **dict.fromkeys((1, 2), _FIRST_ROW),
    **dict.fromkeys((3, 4), (0, 0, 0, 1, 1)),
    **dict.fromkeys(range(5, 11), _SECOND_ROW),
    11: (0, 0, 0, 0, 1, 1, 2),
    **dict.fromkeys(range(12, 19), _THIRD_ROW),
    **dict.fromkeys((19, 20), (0, 0, 0, 0, 0, 1, 1, 1, 2, 2)),
    **dict.fromkeys(range(21, 31), (0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 3)),
    **dict.fromkeys(range(31, 37), (0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2)),
}
QH9_ELEMENTS = (1, 6, 7, 8, 9)


@dataclass(frozen=True)
class OrbitalBasis:
    """The shells of each element and the union layout over them.

    Args:
        shells: degrees of the shells of each element (by atomic number), in the order of the files.
        convention: order of the orbitals inside a shell, a key of ``CONVENTIONS``.
        name: name of the basis in messages.
        spinful: H has spin blocks (spin-orbit coupling), see the module.
        collinear: there is an H for each of ``SPINS``, without spin-orbit coupling.
        radii: distance beyond which the orbitals of an element vanish, angstrom; atoms have a block of H if they are
            closer than the sum of their radii. None where the radii are unknown.

    Attributes:
        union: degree of each union shell.
        slots: slots[z, s] is the orbital of element z, in the order of the files, in union slot s; -1: padding.
        sizes: sizes[z] is the number of orbitals of element z.

    Raises:
        BasisError: no elements, an unknown convention, or both kinds of spin.
    """

    shells: Mapping[int, tuple[int, ...]]
    convention: str = "pyscf"
    name: str = "basis"
    spinful: bool = False
    radii: Mapping[int, float] | None = None
    collinear: bool = False
    union: tuple[int, ...] = field(init=False)
    slots: Int64[np.ndarray, "elements dim"] = field(init=False, repr=False, compare=False)
    sizes: Int64[np.ndarray, " elements"] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.shells:
            raise BasisError(f"{self.name}: no elements; give at least one atomic number")
        if self.convention not in CONVENTIONS:
            raise BasisError(f"unknown orbital convention {self.convention!r}; known: {sorted(CONVENTIONS)}")
        if self.spinful and self.collinear:
            raise BasisError(
                f"{self.name}: spinful and collinear exclude each other; set basis.spinful=true for spin-orbit "
                "coupling, or basis.collinear=true for two Hamiltonians without it"
            )
        counts: Counter[int] = Counter()
        for degrees in self.shells.values():
            counts |= Counter(degrees)
        spatial = tuple(sorted(counts.elements()))
        object.__setattr__(self, "union", spatial * self.spins)
        slots = np.full((max(self.shells) + 1, self.dim), -1, dtype=np.int64)
        sizes = np.zeros(max(self.shells) + 1, dtype=np.int64)
        for number, degrees in self.shells.items():
            size = sum(2 * degree + 1 for degree in degrees)
            one_spin = _slots(degrees, spatial, CONVENTIONS[self.convention])
            slots[number] = np.concatenate(
                [np.where(one_spin >= 0, one_spin + s * size, -1) for s in range(self.spins)]
            )
            sizes[number] = size * self.spins
        object.__setattr__(self, "slots", slots)
        object.__setattr__(self, "sizes", sizes)

    @classmethod
    def def2_svp(cls, elements: Iterable[int] = QH9_ELEMENTS) -> "OrbitalBasis":
        """def2-SVP in PySCF's order for these atomic numbers (default: the elements of QH9).

        Raises:
            BasisError: an element above krypton.
        """
        missing = sorted(set(elements) - DEF2_SVP.keys())
        if missing:
            raise BasisError(f"def2-SVP is tabulated for atomic numbers 1-36 here, not for {missing}")
        return cls({int(z): DEF2_SVP[z] for z in sorted(set(elements))}, "pyscf", "def2-SVP")

    @classmethod
    def openmx(
        cls,
        shells: Shells,
        spinful: bool = False,
        collinear: bool = False,
    ) -> "OrbitalBasis":
        """Pseudo-atomic orbitals in OpenMX's order, such as ``["Mo-s3p2d2", "S-s2p2d1"]``.

        Args:
            shells: names such as ``Mo-s3p2d2``, or ``Mo7.0-s3p2d2`` with the radius in bohr; or a mapping from
                symbols or atomic numbers to names of shells (``s3p2d2``) or lists of their degrees.
            spinful: with spin-orbit coupling.
            collinear: with an H for each of ``SPINS``.

        Raises:
            BasisError: an unknown element, or shells that cannot be parsed.
        """
        parsed = [] if isinstance(shells, Mapping) else list(map(_parse_name, shells))
        entries = shells.items() if isinstance(shells, Mapping) else [entry[:2] for entry in parsed]
        degrees = {_number(key): _degrees(key, value) for key, value in entries}
        radii = {_number(key): radius * ANGSTROM_PER_BOHR for key, _, radius in parsed if radius is not None}
        ordered = {z: degrees[z] for z in sorted(degrees)}
        name = ", ".join(f"{SYMBOLS[z]} {shells_name(d)}" for z, d in ordered.items())
        all_radii = radii if radii.keys() == ordered.keys() else None
        name += " with spin" if spinful else " of both spins" if collinear else ""
        return cls(ordered, "openmx", name, spinful, all_radii, collinear)

    @property
    def spins(self) -> int:
        """2 with spin-orbit coupling, else 1."""
        return 2 if self.spinful else 1

    @property
    def channels(self) -> tuple[str | None, ...]:
        """The spins of the Hamiltonians of a structure: both of ``SPINS`` if collinear, else None alone."""
        return SPINS if self.collinear else (None,)

    @property
    def unit(self) -> str:
        """Unit of H in the files of this basis and inside the program: hartree or eV."""
        return UNITS[self.convention]

    @property
    def periodic(self) -> bool:
        """Whether the files of this basis hold crystals, blocks of pairs in cells, or molecules, dense matrices."""
        return PERIODIC[self.convention]

    @property
    def dim(self) -> int:
        """Number of slots of the union layout (14 for def2-SVP of H, C, N, O, F)."""
        return sum(2 * degree + 1 for degree in self.union)

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers of the elements of this basis, ascending."""
        return tuple(sorted(self.shells))

    @property
    def mask(self) -> Bool[np.ndarray, "elements dim"]:
        """mask[z, s]: element z has an orbital in union slot s."""
        return self.slots >= 0

    @property
    def shell_mask(self) -> Bool[np.ndarray, "elements shells"]:
        """shell_mask[z, n]: element z has union shell n."""
        return self.mask[:, self.shell_starts]

    @property
    def shell_starts(self) -> Int64[np.ndarray, " shells"]:
        """First union slot of each union shell."""
        lengths = [2 * degree + 1 for degree in self.union]
        return np.cumsum([0, *lengths[:-1]])

    def check(self, numbers: Int64[np.ndarray, " atoms"], where: str, *, trained: bool = False) -> None:
        """Check that the basis has all these elements.

        Args:
            numbers: atomic numbers.
            where: source of the atomic numbers, for messages.
            trained: the basis belongs to a trained network, to which no element can be added.

        Raises:
            BasisError: an element that the basis does not have.
        """
        unknown = sorted({int(z) for z in numbers} - self.shells.keys())
        if unknown:
            advice = (
                f"use a network that was trained with {_symbols(unknown)}"
                if trained
                else "add them to the basis elements of the configuration"
            )
            raise BasisError(
                f"{where}: atomic numbers {unknown} have no entry in {self.name} of elements "
                f"{_symbols(self.elements)}; {advice}"
            )


def _symbols(numbers: Iterable[int]) -> str:
    return ", ".join(SYMBOLS[z] if 0 < z < len(SYMBOLS) else str(z) for z in numbers)


def shells_name(degrees: Sequence[int]) -> str:
    """Name of a list of shells, such as "s2p2d1" for the degrees (0, 0, 1, 1, 2)."""
    return "".join(f"{LETTERS[degree]}{count}" for degree, count in sorted(Counter(degrees).items()))


def _parse_name(entry: str) -> tuple[str, str, float | None]:
    """Element, basis and radius (bohr) of a name such as Mo-s3p2d2 or Mo7.0-s3p2d2."""
    match = re.fullmatch(r"([A-Z][a-z]?)(?:(\d+(?:\.\d+)?)\w*)?-(\w+)", str(entry))
    if match is None:
        raise BasisError(f"basis.shells has {entry!r}; name element and basis, such as Mo-s3p2d2")
    return match[1], match[3], float(match[2]) if match[2] else None


def _number(key: str | int) -> int:
    number = NUMBERS.get(key) if isinstance(key, str) else key
    if number is None or not 0 < number < len(SYMBOLS):
        raise BasisError(f"basis.shells: {key!r} is no element; give symbols such as Mo, or atomic numbers")
    return number


def _degrees(key: str | int, value: str | Sequence[int]) -> tuple[int, ...]:
    if isinstance(value, str):
        pairs = re.findall(rf"([{LETTERS}])([1-9])", value)
        degrees = tuple(LETTERS.index(letter) for letter, count in pairs for _ in range(int(count)))
        understood = "".join(map("".join, pairs)) == value
    else:
        degrees = tuple(value)
        understood = all(isinstance(d, int) and 0 <= d < len(LETTERS) for d in degrees)
    if not understood or not degrees or list(degrees) != sorted(degrees):
        raise BasisError(
            f"basis.shells of {key} is {value!r}; give the number of shells of each degree, such as s2p2d1, "
            "or their degrees, ascending"
        )
    return degrees


def _slots(
    degrees: tuple[int, ...], union: tuple[int, ...], permutations: Mapping[int, tuple[int, ...]]
) -> Int64[np.ndarray, " dim"]:
    """Row of `OrbitalBasis.slots` for an element with these shells, without spin."""
    starts: dict[int, list[int]] = {}
    offset = 0
    for degree in degrees:
        starts.setdefault(degree, []).append(offset)
        offset += 2 * degree + 1
    slots: list[int] = []
    for degree in union:
        present = starts.get(degree)
        if present:
            start = present.pop(0)
            slots += [start + i for i in permutations.get(degree, range(2 * degree + 1))]
        else:
            slots += [-1] * (2 * degree + 1)
    return np.array(slots)
