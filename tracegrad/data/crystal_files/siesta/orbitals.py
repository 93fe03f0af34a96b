"""Elements, shells and radii of the orbitals of a SIESTA run, from its binary file and the files beside it."""

from pathlib import Path

import numpy as np
from jaxtyping import Int64

from tracegrad.data.crystal_files.siesta.orb_indx import read_orb_indx
from tracegrad.data.crystal_files.siesta.run import SiestaRun
from tracegrad.data.crystals.calculation_text import calculation_text, plain_or_packed
from tracegrad.data.crystals.orbital_blocks import CellOrbitals, cell_orbitals
from tracegrad.data.crystals.structure import block_key
from tracegrad.elements import SYMBOLS, labelled_element
from tracegrad.errors import DataError
from tracegrad.hamiltonian.neighbours import pairs_within

_SAME_RADIUS = 1e-3  # angstrom


def file_beside(path: Path, suffix: str) -> Path:
    """The file of the same run with another suffix than the binary file, perhaps packed."""
    return plain_or_packed(path.with_name(path.name.removesuffix(".gz").rpartition(".")[0] + suffix))


def siesta_orbitals(path: Path, run: SiestaRun) -> CellOrbitals:
    """The orbitals of a run; a shell is 2l + 1 orbitals of one n, l and zeta, one after another.

    Args:
        path: the binary file.
        run: its content.

    Raises:
        DataError: elements or shells are not known, or two species of one element have different orbitals.
    """
    degrees = []
    for label, orbitals in zip(run.labels, run.orbitals, strict=True):
        found: list[int] = []
        position = 0
        while position < len(orbitals):
            degree = int(orbitals[position, 1])
            shell = orbitals[position : position + max(1, 2 * degree + 1)]
            if not 0 <= degree <= 6 or len(shell) != 2 * degree + 1 or (shell != shell[0]).any():
                raise DataError(
                    f"{path}: orbital {position + 1} of species {label} is of no whole shell (n, l, zeta: "
                    f"{orbitals[position].tolist()}); the file is damaged, run SIESTA again"
                )
            found.append(degree)
            position += len(shell)
        degrees.append(found)
    numbers = _atomic_numbers(path, run)
    _check_species(path, run, numbers)
    return cell_orbitals(
        numbers, [degrees[kind] for kind in run.species], lambda m: (-1) ** (m % 2), str(path)
    )


def check_images(path: Path, run: SiestaRun, orbitals: CellOrbitals) -> None:
    """Raise `DataError` if an orbital of a run with one cell reaches an image of an atom."""
    index = file_beside(path, ".ORB_INDX")
    if not index.is_file():
        raise DataError(
            f"{path}: a run at Gamma only, in which SIESTA adds the images of atoms to R = 0; {index.name}, whose "
            "radii tell whether an image is reached, is not beside it: copy it there, or run SIESTA with k points"
        )
    table = read_orb_indx(index)
    if not np.array_equal(table.atoms, orbitals.atoms):
        raise DataError(
            f"{index}: its {len(table.atoms)} orbitals are not those of {path.name}; take both files from one run"
        )
    radii = np.zeros(len(orbitals.numbers))
    np.maximum.at(radii, table.atoms, table.radii)
    edges, distances = pairs_within(run.positions, run.lattice, 2 * float(radii.max()))
    images = edges[:, :3].any(1) & (distances < radii[edges[:, 3]] + radii[edges[:, 4]])
    if images.any():
        edge = edges[np.flatnonzero(images)[distances[images].argmin()]]
        raise DataError(
            f"{path}: a run at Gamma only, in which SIESTA adds the images of atoms to R = 0, and orbitals reach an "
            f"image (block {block_key(edge)}, {distances[images].min():.2f} angstrom); run it with k points "
            "(kgrid_Monkhorst_Pack), or a molecule in a larger cell"
        )


def _check_species(path: Path, run: SiestaRun, numbers: Int64[np.ndarray, " atoms"]) -> None:
    """Raise `DataError` if two species of one element have other orbitals, or radii if these are known."""
    first = {int(number): int(kind) for number, kind in zip(numbers[::-1], run.species[::-1], strict=True)}
    several = [
        (first[int(number)], kind, int(number))
        for kind, number in dict(zip(run.species.tolist(), numbers.tolist(), strict=True)).items()
        if kind != first[int(number)]
    ]
    index = file_beside(path, ".ORB_INDX")
    table = read_orb_indx(index) if several and index.is_file() else None
    for one, other, number in several:
        same = np.array_equal(run.orbitals[one], run.orbitals[other])
        if same and table is not None:
            radii = [table.radii[table.species == kind] for kind in (one, other)]
            shared = min(map(len, (run.orbitals[one], *radii)))
            same = bool(np.abs(radii[0][:shared] - radii[1][:shared]).max(initial=0) < _SAME_RADIUS)
        if not same:
            raise DataError(
                f"{path}: the species {run.labels[one]} and {run.labels[other]} of {SYMBOLS[number]} have different "
                "orbitals; one basis for each element is supported, so compute both with the same"
            )


def _atomic_numbers(path: Path, run: SiestaRun) -> Int64[np.ndarray, " atoms"]:
    for kind in np.unique(run.species).tolist():
        if run.charges is not None and not run.charges[kind] > 0:
            raise DataError(
                f"{path}: species {run.labels[kind]} has no electrons; ghost atoms are not supported, so compute "
                "the structure without them"
            )
    other = file_beside(path, ".XV")
    if other.is_file():
        return _numbers_of_xv(other, path, run)
    elements = [labelled_element(label) for label in run.labels]
    numbers = np.array([elements[kind] or 0 for kind in run.species], dtype=np.int64)
    if not numbers.all():
        label = run.labels[run.species[int(numbers.argmin())]]
        raise DataError(
            f"{path}: the label {label!r} of a species starts with no symbol, and {other.name}, which has the atomic "
            "numbers, is not beside it; copy it there"
        )
    return numbers


def _numbers_of_xv(path: Path, binary: Path, run: SiestaRun) -> Int64[np.ndarray, " atoms"]:
    try:
        rows = [[int(word) for word in line.split()[:2]] for line in calculation_text(path).splitlines()[4:]]
        table = np.array([row for row in rows if row], dtype=np.int64).reshape(-1, 2)
    except (ValueError, OverflowError) as error:
        raise DataError(f"{path}: not understood ({error}); an .XV file of SIESTA is needed") from error
    if not np.array_equal(table[:, 0] - 1, run.species):
        raise DataError(
            f"{path}: has {len(table)} atoms whose species are not those of the {len(run.species)} atoms in "
            f"{binary.name}; take both files from one run, or remove this one"
        )
    wrong = np.flatnonzero((table[:, 1] < 1) | (table[:, 1] >= len(SYMBOLS)))
    if len(wrong):
        raise DataError(
            f"{path}: atom {wrong[0] + 1} has atomic number {table[wrong[0], 1]}; ghost atoms and mixtures of "
            "elements are not supported"
        )
    return table[:, 1]
