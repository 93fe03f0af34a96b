"""Checks that a row of a database is a molecule in the units of the database.

Impossible molecules are refused when the row is read: atoms at the same place, all distances too short, fragments far
from each other, 1s levels that do not belong to the elements. Distances that are too long may be intended (broken
bonds); they are judged only for a database as a whole, see `long_distances`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from scipy.spatial.distance import cdist

from tracegrad.elements import COVALENT_RADII, SYMBOLS
from tracegrad.errors import DataError
from tracegrad.hamiltonian.basis import DEF2_SVP
from tracegrad.units import BOHR_PER_ANGSTROM, MEV_PER_HARTREE

SMALLEST_DISTANCE = 0.4  # angstrom; H2 vibrates between 0.6 and 0.9
# Distance of an atom to its nearest neighbour over the sum of their covalent radii, median over the atoms of a
# molecule: 0.77 (HCN) to 1.25 (F2). Reading angstrom as bohr divides this ratio by 1.89, the opposite multiplies it.
SHORTEST, LONGEST = 0.65, 1.35
# A molecule of n atoms whose extent is larger than _EXTENT + n _EXTENT_OF_ATOM (angstrom) cannot be bonded.
_EXTENT, _EXTENT_OF_ATOM = 20.0, 3.0
# Molecules of at least this many compositions are not all stretched by the same factor on purpose.
_COMPOSITIONS = 4
# 1s level over -(0.592 Z - 0.36)^2 hartree: 0.99 to 1.09 for Li to Ar in B3LYP/def2-SVP, 0.92 in PBE, 1.22 in
# Hartree-Fock (Li). Up to F, neighbours in the periodic table are outside these limits; so are rydberg.
_LOWEST_SHARE, _HIGHEST_SHARE = 0.8, 1.25
# Mean diagonal element of the p functions of H, in hartree: 0.95 to 1.3 in B3LYP/def2-SVP.
_LOWEST_P, _HIGHEST_P = 0.8, 1.85
_UNITS = {
    "rydberg": 2.0,
    "eV": MEV_PER_HARTREE / 1000,
    "meV": MEV_PER_HARTREE,
    "kcal/mol": 627.509,
    "kJ/mol": 2625.5,
}
# Number of orbitals of each element in def2-SVP, by atomic number; 0: not tabulated.
ORBITALS = np.array([sum(2 * degree + 1 for degree in DEF2_SVP.get(z, ())) for z in range(119)])
# Approximate energy of the 1s orbital by atomic number, hartree.
CORE_LEVELS = -((0.592 * np.arange(119) - 0.36) ** 2)


@dataclass(frozen=True)
class Layout:
    """What messages say about a format.

    Args:
        kind: the format, such as "a stable database".
        unit: of the positions in the file, angstrom or bohr.
        numbers, positions, hamiltonian: where they stand, such as "column Z".
        dtype: of the positions in the file.
    """

    kind: str
    unit: str
    numbers: str
    positions: str
    hamiltonian: str
    dtype: str = "<f8"


@dataclass(frozen=True)
class FunctionalLevels:
    """1s levels that tell a functional from others.

    Args:
        functional: its name.
        lowest, highest: smallest share of a molecule, over its atoms C, N, O and F, of the 1s level (diagonal element
            of H) in `CORE_LEVELS`; with other functionals this is outside.
    """

    functional: str
    lowest: float
    highest: float


def check_molecule(
    numbers: Int64[np.ndarray, " atoms"],
    positions: Float[np.ndarray, "atoms 3"],
    hamiltonian: Float[np.ndarray, "n n"],
    where: str,
    layout: Layout,
) -> None:
    """Check that the positions are those of a molecule, and that the Hamiltonian belongs to it and is in hartree.

    Args:
        numbers: atomic numbers that def2-SVP has.
        positions: angstrom, finite.
        hamiltonian: in PySCF's order; should be in hartree.
        where: database and row, for the message.
        layout: of the file.

    Raises:
        DataError: one of these conditions does not hold.
    """
    if len(numbers) > 1:
        fault = _geometry_fault(numbers, positions)
        if fault is not None:
            reading = _reading(numbers, positions, layout)
            raise DataError(
                f"{where}: {layout.positions}: {fault}{reading}; correct the positions or leave this row out"
            )
    fault = _level_fault(numbers, np.diagonal(hamiltonian))
    if fault is not None:
        unit = _unit(numbers, np.diagonal(hamiltonian), layout)
        raise DataError(
            f"{where}: {layout.hamiltonian}: {fault}{unit}; correct the Hamiltonian or leave this row out"
        )


def check_functional(
    numbers: Int64[np.ndarray, " atoms"],
    hamiltonian: Float[np.ndarray, "n n"],
    where: str,
    layout: Layout,
    levels: FunctionalLevels,
) -> None:
    """Check that a Hamiltonian may be one of the functional of its database; molecules without C, N, O, F pass.

    Args:
        numbers, hamiltonian, where, layout: as in `check_molecule`.
        levels: of the functional.

    Raises:
        DataError: the 1s levels are those of another functional.
    """
    starts = np.cumsum(ORBITALS[numbers]) - ORBITALS[numbers]
    atoms = np.flatnonzero((numbers >= 6) & (numbers <= 9))
    if not len(atoms):
        return
    shares = np.diagonal(hamiltonian)[starts[atoms]] / CORE_LEVELS[numbers[atoms]]
    least = int(shares.argmin())
    if levels.lowest < shares[least] < levels.highest:
        return
    atom, z = int(atoms[least]), int(numbers[atoms[least]])
    ends = sorted((levels.lowest * CORE_LEVELS[z], levels.highest * CORE_LEVELS[z]))
    raise DataError(
        f"{where}: {layout.hamiltonian}: the 1s level of atom {atom + 1} ({SYMBOLS[z]}) is "
        f"{shares[least] * CORE_LEVELS[z]:.4g} hartree, but {ends[0]:.4g} to {ends[1]:.4g} with {levels.functional}; "
        "this Hamiltonian is of another functional, such as Hartree-Fock: take the file of this database's functional"
    )


def long_distances(
    molecules: Iterable[tuple[Int64[np.ndarray, " _"], Float[np.ndarray, "_ 3"]]],
    where: str,
    layout: Layout,
) -> str | None:
    """Check whether the atoms of molecules are too far apart to be bonded.

    Args:
        molecules: atomic numbers and positions (angstrom) of each.
        where: the database, for messages.
        layout: of the file.

    Returns:
        A warning if that is so for most molecules, else None.

    Raises:
        DataError: nearly all are molecules if the positions are read in another unit or order, and the molecules have
            several compositions. Molecules of one composition may be points along the breaking of a bond.
    """
    pairs = [(numbers, positions) for numbers, positions in molecules if len(numbers) > 1]
    far = [pair for pair in pairs if _bond_share(*pair) > LONGEST]
    if 2 * len(far) <= len(pairs):
        return None
    line = (
        f"{where}: {layout.positions}: in {len(far)} of {len(pairs)} checked rows most atoms have no neighbour "
        "at the distance of a bond"
    )
    for what, other in _readings(layout).items():
        if sum(_normal(numbers, other(positions)) for numbers, positions in pairs) < 0.9 * len(pairs):
            continue
        line += f"; read {what} they have some; correct the positions"
        if len({numbers.tobytes() for numbers, _ in pairs}) >= _COMPOSITIONS:
            raise DataError(line)
        return f"{line}, unless bonds are meant to be broken"
    return f"{line}; correct the unit of the positions if this is not meant"


def _geometry_fault(
    numbers: Int64[np.ndarray, " atoms"], positions: Float[np.ndarray, "atoms 3"]
) -> str | None:
    """What is impossible about the geometry, for a message; None: nothing."""
    distances = cdist(positions, positions)
    extent = float(distances.max())
    np.fill_diagonal(distances, np.inf)
    closest = int(distances.argmin())
    i, j = divmod(closest, len(numbers))
    if distances[i, j] < SMALLEST_DISTANCE:
        return (
            f"atoms {i + 1} and {j + 1} (counted from 1) are {distances[i, j]:.2g} angstrom apart "
            f"(at least {SMALLEST_DISTANCE})"
        )
    share = _share(numbers, distances)
    if share < SHORTEST:
        return f"the atoms are {share:.2f} times as far apart as bonded ones (at least {SHORTEST})"
    most = _EXTENT + _EXTENT_OF_ATOM * len(numbers)
    if extent > most:
        return f"{len(numbers)} atoms extend over {extent:.3g} angstrom (at most {most:.0f})"
    return None


def _level_fault(numbers: Int64[np.ndarray, " atoms"], levels: Float[np.ndarray, " n"]) -> str | None:
    """Which level (diagonal element of H) is impossible, for a message. From Li on the first function is the 1s."""
    starts = np.cumsum(ORBITALS[numbers]) - ORBITALS[numbers]
    heavy = numbers > 2
    if heavy.any():
        shares = levels[starts[heavy]] / CORE_LEVELS[numbers[heavy]]
        wrong = np.flatnonzero(~((shares > _LOWEST_SHARE) & (shares < _HIGHEST_SHARE)))
        if len(wrong):
            atom = int(np.flatnonzero(heavy)[wrong[0]])
            z = int(numbers[atom])
            return (
                f"the 1s level of atom {atom + 1} ({SYMBOLS[z]}) is {levels[starts[atom]]:.4g}, but about "
                f"{CORE_LEVELS[z]:.1f} hartree in {SYMBOLS[z]}"
            )
        return None
    hydrogens = starts[numbers == 1]
    if len(hydrogens):
        level = float(levels[hydrogens[:, None] + np.arange(2, 5)].mean())
        if not _LOWEST_P < level < _HIGHEST_P:
            return f"the p level of H is {level:.4g}, but about 1.2 hartree"
    return None


def _bond_share(numbers: Int64[np.ndarray, " atoms"], positions: Float[np.ndarray, "atoms 3"]) -> float:
    """`_share` of positions."""
    distances = cdist(positions, positions)
    np.fill_diagonal(distances, np.inf)
    return _share(numbers, distances)


def _share(numbers: Int64[np.ndarray, " atoms"], distances: Float[np.ndarray, "atoms atoms"]) -> float:
    """Distance to the nearest neighbour over the length of a bond; lower median over the atoms."""
    radii = COVALENT_RADII[numbers]
    nearest = (distances / (radii[:, None] + radii)).min(1)
    middle = (len(nearest) - 1) // 2
    return float(np.partition(nearest, middle)[middle])


def _normal(numbers: Int64[np.ndarray, " atoms"], positions: Float[np.ndarray, "atoms 3"]) -> bool:
    """Whether the positions are those of a bonded molecule."""
    with np.errstate(all="ignore"):
        return (
            bool(np.isfinite(positions).all() and np.abs(positions).max() < 1e6)
            and _geometry_fault(numbers, positions) is None
            and _bond_share(numbers, positions) <= LONGEST
        )


def _readings(layout: Layout) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Other interpretations of positions that were read as the layout says and converted to angstrom."""
    bohr = layout.unit == "bohr"
    factor = BOHR_PER_ANGSTROM if bohr else 1 / BOHR_PER_ANGSTROM
    other = "angstrom" if bohr else "bohr"
    file = BOHR_PER_ANGSTROM if bohr else 1.0
    kind = f"({layout.kind} has {layout.unit})"

    def swapped(positions: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.ascontiguousarray((positions * file).astype(layout.dtype)).byteswap() / file

    return {
        f"in {other} {kind}": lambda positions: positions * factor,
        "as (3, atoms)": lambda positions: positions.reshape(3, -1).T,
        f"as (3, atoms) in {other} {kind}": lambda positions: positions.reshape(3, -1).T * factor,
        "of the other byte order (little-endian is right)": swapped,
    }


def _reading(
    numbers: Int64[np.ndarray, " atoms"], positions: Float[np.ndarray, "atoms 3"], layout: Layout
) -> str:
    """Interpretations with which the positions are a molecule, for a message."""
    possible = [what for what, other in _readings(layout).items() if _normal(numbers, other(positions))]
    return f"; read {' or '.join(possible)} it would be a molecule" if possible else ""


def _unit(numbers: Int64[np.ndarray, " atoms"], levels: Float[np.ndarray, " n"], layout: Layout) -> str:
    """Units, byte orders or orders of atoms with which the levels are right, for a message."""
    swapped = np.ascontiguousarray(levels).byteswap()
    with np.errstate(all="ignore"):
        if np.isfinite(swapped).all() and _level_fault(numbers, swapped) is None:
            return "; it is of the other byte order (little-endian is right)"
        for unit, factor in _UNITS.items():
            if _level_fault(numbers, levels / factor) is None:
                return f"; it is in {unit}, divide it by {factor:g}"
    order = np.sort(numbers)
    for other in (order, order[::-1], numbers[::-1]):
        if _level_fault(other, levels) is None:
            return f"; its atoms are in another order than those of {layout.numbers}"
    return ""
