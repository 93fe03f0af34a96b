"""Whether converted matrices are those of the structure: checks that do not depend on the code that computed them.

`check_structure` refuses what contradicts itself when a structure is read. These checks need S or a second source,
and find what it cannot see: orders and signs of orbitals, and the unit of H.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy.linalg import LinAlgError, eigh, eigvalsh

from tracegrad.data.crystals.bloch_matrix import BlochMatrix
from tracegrad.data.crystals.overlap_symmetry import axis_error, on_site_error
from tracegrad.data.crystals.reference_bands import ReferenceBands
from tracegrad.data.crystals.rotated_copies import copy_error, rotation_between
from tracegrad.data.crystals.structure import (
    HERMITICITY_TOLERANCE,
    Structure,
    block_key,
    hermiticity_error,
    on_site_levels,
)
from tracegrad.elements import SYMBOLS
from tracegrad.hamiltonian.basis import LETTERS

AXIS_TOLERANCE = 0.1  # of `axis_error`; codes have up to 0.03, wrong orders and signs about 1
ON_SITE_TOLERANCE = 1e-2
SPREAD = 30.0  # eV, between the on-site levels of a shell; crystal fields give up to 10
BAND_TOLERANCE = 1e-3  # eV
COPY_TOLERANCE = 0.05  # of `CopyError.share`; the grids of codes give 1e-3, wrong orders and signs above 0.3
_MOST_ORBITALS = 1500  # of a cell whose eigenvalues are computed; larger cells take minutes
_K = np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.12, 0.31, 0.23]])
_RATIOS = {2.0: "rydberg taken for hartree", 0.5: "hartree taken for rydberg"}


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Args:
        passed: whether the matrices are as they have to be.
        text: what was found.
    """

    passed: bool
    text: str


def check_matrices(structure: Structure) -> list[Finding]:
    """The checks of one structure with H, S or both."""
    pairs = [Finding(True, text) for text in one_sided_pairs(structure)]
    return [*_hamiltonian(structure), *_overlap(structure), *pairs]


def check_bands(structure: Structure, bands: ReferenceBands, spin: str | None = None) -> Finding | None:
    """Compare eigenvalues of H and S with those that the code printed; None for cells that are too large.

    Args:
        structure: with H and S.
        bands: eigenvalues of the code.
        spin: channel of the structure in a collinear calculation.
    """
    if structure.basis.sizes[structure.numbers].sum() > _MOST_ORBITALS:
        return None
    expected = bands.energies[1 if spin == "down" and len(bands.energies) > 1 else 0]
    count = min(expected.shape[1], int(structure.basis.sizes[structure.numbers].sum()))
    hamiltonian, overlap = (BlochMatrix(structure, matrix) for matrix in ("hamiltonian", "overlap"))
    found = []
    for k in bands.k:
        try:
            found.append(eigh(hamiltonian.at(k).toarray(), overlap.at(k).toarray(), eigvals_only=True))
        except LinAlgError:
            return Finding(
                False, f"S is not positive definite at k = {_vector(k)}, so that there are no eigenvalues"
            )
    energies, expected = np.array(found)[:, :count], expected[:, :count]
    difference = energies - expected
    if not bands.absolute:
        difference = difference - difference.mean()
    largest = float(np.abs(difference).max())
    text = (
        f"eigenvalues differ from those of {bands.source} by at most {largest:.1e} eV ({count} bands, "
        f"{len(expected)} k)"
    )
    if largest <= BAND_TOLERANCE:
        return Finding(True, text)
    ratio = np.polyfit(expected.ravel(), energies.ravel(), 1)[0]
    unit = next((name for value, name in _RATIOS.items() if abs(ratio / value - 1) < 0.02), None)
    cause = unit or "wrong unit, orders or signs of orbitals, other spin, or a file of another run"
    return Finding(False, f"{text}; {cause}")


class RotatedCopies:
    """Finds rotated copies in a series of structures, and compares each with the first one of its kind."""

    def __init__(self) -> None:
        self._first: dict[tuple[bytes, bytes], Structure] = {}

    def check(self, structure: Structure) -> Finding | None:
        """Compare a structure with an earlier one that it is a copy of; None if there is none."""
        lengths = np.round(np.linalg.norm(structure.lattice, axis=1), 2).tobytes()
        first = self._first.setdefault((structure.numbers.tobytes(), lengths), structure)
        turned = None if first is structure else rotation_between(first, structure)
        if turned is None:
            return None
        error = copy_error(first, structure, turned)
        text = (
            f"H differs from that of {first.name}, of which this is a rotated copy, by at most {error.largest:.1e} "
            f"eV ({error.share:.1e} of the blocks of pairs)"
        )
        if error.share <= COPY_TOLERANCE:
            return Finding(True, text)
        return Finding(False, f"{text}; the order or the signs of the orbitals are wrong, or one is no copy")


def one_sided_pairs(structure: Structure) -> list[str]:
    """A line if there are pairs of atoms with H and without S, and one if there are some with S and without H."""
    if structure.hamiltonian is None or structure.overlap is None:
        return []
    h, s = (np.array([np.abs(b).max() for b in structure.blocks(one)]) for one in ("hamiltonian", "overlap"))
    only_h, only_s = (s == 0) & (h > 0), (h == 0) & (s > 0)
    lines = []
    if only_h.any():
        lines.append(f"{only_h.sum()} of {len(h)} pairs have H, up to {h[only_h].max():.1e} eV, and no S")
    if only_s.any():
        lines.append(f"{only_s.sum()} of {len(h)} pairs have S, up to {s[only_s].max():.1e}, and no H")
    return lines


def _hamiltonian(structure: Structure) -> Iterator[Finding]:
    if structure.hamiltonian is None:
        return
    error, _ = hermiticity_error(structure)
    yield Finding(error <= HERMITICITY_TOLERANCE, f"H is hermitian to {error:.1e} eV")
    widest, where = 0.0, ""
    for atom, levels in enumerate(on_site_levels(structure)):
        shells = structure.shells[int(structure.numbers[atom])] * structure.basis.spins
        bounds = np.cumsum([0, *(2 * degree + 1 for degree in shells)])
        for n, degree in enumerate(shells):
            spread = float(np.ptp(levels[bounds[n] : bounds[n + 1]]))
            if spread > widest:
                symbol = SYMBOLS[structure.numbers[atom]]
                widest, where = spread, f" ({LETTERS[degree]} of atom {atom + 1}, {symbol})"
    text = f"the on-site levels of a shell lie within {widest:.2f} eV{where}"
    if widest <= SPREAD:
        yield Finding(True, text)
    else:
        yield Finding(
            False, f"{text}, more than {SPREAD:g}; the shells, or the order of the orbitals, are wrong"
        )


def _overlap(structure: Structure) -> Iterator[Finding]:
    if structure.overlap is None:
        return
    error, _ = hermiticity_error(structure, "overlap")
    yield Finding(error <= HERMITICITY_TOLERANCE, f"S is hermitian to {error:.1e}")
    error, atom = on_site_error(structure)
    text = f"S on one atom is that of its shells to {error:.1e}"
    if error > ON_SITE_TOLERANCE:
        text += f" (atom {atom + 1}, at most {ON_SITE_TOLERANCE:g}); shells or the order of the orbitals are wrong"
    yield Finding(error <= ON_SITE_TOLERANCE, text)
    axis = axis_error(structure)
    text = f"overlaps are symmetric about their bonds to {axis.size:.1e}"
    if axis.size > AXIS_TOLERANCE:
        text += (
            f" of their size, at most {AXIS_TOLERANCE:g} ({axis.shells[0]} with {axis.shells[1]}, block "
            f"{block_key(structure.edges[axis.edge])}); the order or the signs of the orbitals are wrong, or "
            "positions and R do not belong together"
        )
    yield Finding(axis.size <= AXIS_TOLERANCE, text)
    if structure.basis_of("overlap").sizes[structure.numbers].sum() <= _MOST_ORBITALS:
        bare = replace(structure, spinful=False, hamiltonian=None)
        overlap = BlochMatrix(bare, "overlap")
        smallest = [float(eigvalsh(overlap.at(k).toarray(), subset_by_index=[0, 0])[0]) for k in _K]
        k = _K[int(np.argmin(smallest))]
        text = f"the smallest eigenvalue of S is {min(smallest):.1e} (k = {_vector(k)})"
        if min(smallest) > 0:
            yield Finding(True, text)
        else:
            yield Finding(False, f"{text}, and has to be positive; blocks are missing or wrong")


def _vector(k: Float[np.ndarray, " 3"]) -> str:
    return "(" + " ".join(f"{x:g}" for x in k) + ")"
