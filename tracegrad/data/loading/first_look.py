"""Checks of radii and units with some structures of a database, before a training.

A single structure does not show beyond doubt that a radius or a unit is wrong, so that these checks can only warn;
see `tracegrad.data.crystals.structure` for the checks that refuse a structure.
"""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np

from tracegrad.data.crystals.structure import Structure, on_site_levels
from tracegrad.elements import COVALENT_RADII, SYMBOLS
from tracegrad.hamiltonian.basis import OrbitalBasis, shells_name
from tracegrad.hamiltonian.neighbours import edges_within_range, pair_ranges
from tracegrad.units import ANGSTROM_PER_BOHR

_ROUNDING = 1e-3  # angstrom, tolerance of distances
_BEYOND = 1.5  # angstrom; missing pairs are searched this far beyond the longest listed pair
_LARGEST_RADIUS = 15.0  # bohr
_STEP = 0.5  # bohr, between the radii that are tried
_MOST_TRIES = 100_000  # combinations of radii
# Largest distance to the nearest neighbour over the sum of the covalent radii. Reading bohr as angstrom multiplies
# this ratio by 1.89.
_LONGEST_SHARE = 1.4
# The largest on-site level of a structure in eV is at least this; in hartree it would be smaller.
_SMALLEST_LARGEST_LEVEL = 5.0  # eV
_CLEAR_SPLITTING = 0.05  # eV, between the mean levels of an atom for both spins

# Largest listed and smallest missing distance of the pairs of two elements, angstrom.
DistanceRange = tuple[float, float]


def compare_radii(structures: Sequence[Structure], basis: OrbitalBasis) -> tuple[str | None, bool]:
    """Compare the radii of a basis with the pairs of atoms that have a block.

    Args:
        structures: some structures of a database.
        basis: their orbital basis, with or without radii.

    Returns:
        A message that says how they differ (None: they agree, or there are no radii); and True if other radii explain
        all pairs of all structures, so that those of the basis are certainly wrong.
    """
    if basis.radii is None:
        return None, False
    reach = 2 * max(basis.radii.values())
    ranges: dict[tuple[int, int], DistanceRange] = {}
    first: tuple[Structure, tuple[int, int]] | None = None
    for structure in structures:
        geometry = (structure.numbers, structure.positions, structure.lattice, structure.edges)
        longest = max(one.longest for one in pair_ranges(*geometry).values())
        for pair, one in pair_ranges(*geometry, search=max(reach, longest + _BEYOND)).items():
            before = ranges.get(pair, (0.0, np.inf))
            ranges[pair] = max(before[0], one.longest), min(before[1], one.absent)
            if first is None and not _fits((one.longest, one.absent), pair, basis.radii):
                first = structure, pair
    if first is None:
        return None, False
    structure, pair = first
    geometry = (structure.numbers, structure.positions, structure.lattice, structure.edges)
    longest = pair_ranges(*geometry)[pair].longest
    blocks = len(edges_within_range(*geometry[:3], np.ones(3, dtype=bool), basis))
    radii = _explaining_radii(ranges, basis.radii)
    used = sorted({z for both in ranges for z in both})
    named = "-".join(SYMBOLS[z] for z in pair)
    line = (
        f"basis.shells says {_names(basis, basis.radii, used)}, but the {named} pairs of {structure.name} end at "
        f"{longest:.2f} angstrom ({longest / ANGSTROM_PER_BOHR:.2f} bohr), not at "
        f"{sum(basis.radii[z] for z in pair) / ANGSTROM_PER_BOHR:.2f} bohr; a prediction from a bare cell would have "
        f"{blocks} blocks where the data have {len(structure.edges)}; "
    )
    if radii is None:
        return f"{line}correct the radii, or predict from structure folders with overlaps", False
    return f"{line}set 'basis.shells=[{_names(basis, radii, basis.elements)}]'", True


def doubtful_units(structure: Structure) -> str | None:
    """A message if levels or distances of a structure look like those in another unit, else None."""
    levels = np.concatenate(on_site_levels(structure))
    if np.abs(levels).max() < _SMALLEST_LARGEST_LEVEL:
        return (
            f"the on-site levels of {structure.name} lie between {levels.min():.2f} and {levels.max():.2f} eV, which "
            "looks like hartree or rydberg; correct the unit of the Hamiltonian if it is not eV"
        )
    radii = COVALENT_RADII[structure.numbers]
    reach = 3 * float(radii.max())
    edges = np.concatenate(
        [np.zeros((len(radii), 3), dtype=np.int64), np.tile(np.arange(len(radii))[:, None], 2)], 1
    )
    ranges = pair_ranges(structure.numbers, structure.positions, structure.lattice, edges, search=reach)
    near = dict.fromkeys(structure.numbers.tolist(), np.inf)
    for pair, one in ranges.items():
        share = one.absent / float(COVALENT_RADII[list(pair)].sum())
        near.update({z: min(near[z], share) for z in pair})
    if min(near.values()) > _LONGEST_SHARE:
        return (
            f"no atom of {structure.name} has a neighbour within {_LONGEST_SHARE} times the length of a bond; "
            "correct the unit of positions and lattice if it is not angstrom"
        )
    return None


def opposite_moments(up: Structure, down: Structure) -> str | None:
    """A message if atoms of one element are polarised in opposite directions, as in an antiferromagnet, else None.

    Args:
        up, down: H of both spins of one structure.
    """
    pairs = zip(on_site_levels(up), on_site_levels(down), strict=True)
    splittings = np.array([float((one - other).mean()) for one, other in pairs])
    for z in up.shells:
        atoms = np.flatnonzero(up.numbers == z)
        first, last = atoms[splittings[atoms].argmin()], atoms[splittings[atoms].argmax()]
        if splittings[first] < -_CLEAR_SPLITTING and splittings[last] > _CLEAR_SPLITTING:
            return (
                f"the levels of {SYMBOLS[z]} atoms {first + 1} and {last + 1} of {up.name} are split by the spin in "
                f"opposite directions, {splittings[first]:+.2f} and {splittings[last]:+.2f} eV, as in an "
                "antiferromagnet; the network knows the spin of H, not the moments of atoms, so that it cannot tell "
                "apart atoms with the same surroundings"
            )
    return None


def _fits(one: DistanceRange, pair: tuple[int, int], radii: Mapping[int, float]) -> bool:
    """Whether the sum of two radii lies between the listed and the missing distances."""
    reach = radii[pair[0]] + radii[pair[1]]
    return one[0] <= reach + _ROUNDING and reach <= one[1] + _ROUNDING


def _explaining_radii(
    ranges: Mapping[tuple[int, int], DistanceRange], radii: Mapping[int, float]
) -> dict[int, float] | None:
    """Radii (angstrom) that give exactly the listed pairs of all structures, as close to ``radii`` as possible."""
    grid = np.arange(_STEP, _LARGEST_RADIUS + _STEP, _STEP) * ANGSTROM_PER_BOHR
    elements = sorted({z for pair in ranges for z in pair})
    choices = []
    for z in elements:
        one = ranges.get((z, z), (0.0, np.inf))
        candidates = {r for r in (radii[z], *grid.tolist()) if _fits(one, (z, z), {z: r})}
        choices.append(sorted(candidates))
    if np.prod([float(len(choice)) for choice in choices]) > _MOST_TRIES:
        return None
    fitting = [
        dict(zip(elements, chosen, strict=True))
        for chosen in product(*choices)
        if all(_fits(one, pair, dict(zip(elements, chosen, strict=True))) for pair, one in ranges.items())
    ]
    if not fitting:
        return None

    def cost(chosen: dict[int, float]) -> tuple[int, float]:
        """Number of radii that are not whole in bohr, as nearly all of OpenMX's are, and distance from ``radii``."""
        odd = sum(abs(r / ANGSTROM_PER_BOHR - round(r / ANGSTROM_PER_BOHR)) > 1e-6 for r in chosen.values())
        return odd, sum(abs(r - radii[z]) for z, r in chosen.items())

    return dict(radii) | min(fitting, key=cost)


def _names(basis: OrbitalBasis, radii: Mapping[int, float], elements: Sequence[int]) -> str:
    """Names of the bases in the form of ``basis.shells``."""
    names = []
    for z in elements:
        bohr = f"{radii[z] / ANGSTROM_PER_BOHR:.4f}".rstrip("0")
        names.append(f"{SYMBOLS[z]}{bohr}{'0' * bohr.endswith('.')}-{shells_name(basis.shells[z])}")
    return ",".join(names)
