"""Both spins of collinear spin-polarised calculations, as two structures each: NAME_up and NAME_down."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from tracegrad.data.crystals.common_pairs import with_common_pairs
from tracegrad.data.crystals.reader import CrystalReader, ReaderType, StructureHeader
from tracegrad.data.crystals.reference_bands import ReferenceBands
from tracegrad.data.crystals.structure import MATRICES, Structure, species_entries
from tracegrad.errors import DataError
from tracegrad.hamiltonian.basis import SPINS
from tracegrad.hamiltonian.blocks import block_starts

BOTH = "both"


class BothSpins(CrystalReader):
    """The structures NAME_up and NAME_down for each calculation NAME of another reader.

    Args:
        path: the database.
        reader: class of the format, whose constructor takes ``spin``.
    """

    label = "collinear calculations"

    def __init__(self, path: str | Path, reader: ReaderType):
        super().__init__(path)
        self.of_spin = {spin: reader(path, spin=spin) for spin in SPINS}

    @property
    def matrices(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.of_spin[SPINS[0]].matrices

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return False  # the readers of both spins say what is a structure

    @cached_property
    def places(self) -> dict[str, Path]:
        places = self.of_spin[SPINS[0]].places
        return {f"{name}_{spin}": place for name, place in places.items() for spin in SPINS}

    def read(self, name: str, matrices: Sequence[str]) -> Structure:
        reader, own = self._of(name)
        return replace(reader.read(own, matrices), name=name)

    def header(self, name: str) -> StructureHeader:
        reader, own = self._of(name)
        return reader.header(own)

    def files(self, name: str, matrix: str = "hamiltonian") -> list[Path]:
        reader, own = self._of(name)
        return reader.files(own, matrix)

    def check_files(self, name: str, matrix: str = "hamiltonian") -> None:
        reader, own = self._of(name)
        reader.check_files(own, matrix)

    def check(self, structure: Structure, name: str, *, pairs: bool = True) -> None:
        reader, own = self._of(name)
        reader.check(structure, own, pairs=pairs)

    def reference_bands(self, name: str) -> ReferenceBands | None:
        reader, own = self._of(name)
        return reader.reference_bands(own)

    def notes(self, name: str) -> list[str]:
        reader, own = self._of(name)
        return reader.notes(own)

    def _of(self, name: str) -> tuple[CrystalReader, str]:
        """The reader of the spin in a name, and the name without it."""
        own, spin = named_spin(name)
        assert spin is not None
        return self.of_spin[spin], own


def with_same_pairs(up: Structure, down: Structure) -> tuple[Structure, Structure]:
    """Both spins of a structure with one list of pairs of atoms; blocks that one of them lacks are 0 there.

    Args:
        up, down: with or without matrices.

    Raises:
        DataError: they are two different structures.
    """
    geometry = ("numbers", "positions", "lattice")
    equal = all(np.array_equal(getattr(up, what), getattr(down, what)) for what in geometry)
    if not equal or up.shells != down.shells or up.spinful or down.spinful:
        raise DataError(
            f"{up.name} and {down.name}: not two spins of one structure, which have the same atoms, lattice and "
            "shells and no spin blocks; take both from one calculation"
        )
    matrices = {
        f"{spin} {matrix}": (structure.edges, getattr(structure, matrix))
        for spin, structure in zip(SPINS, (up, down), strict=True)
        for matrix in MATRICES
        if getattr(structure, matrix) is not None
    }
    if not matrices:
        return up, down
    edges, entries = with_common_pairs(matrices, up.numbers, up.shells, False)
    changed = [
        replace(
            structure,
            edges=edges,
            hamiltonian=entries.get(f"{spin} hamiltonian"),
            overlap=entries.get(f"{spin} overlap"),
            h0=entries.get(f"{spin} h0"),
        )
        for spin, structure in zip(SPINS, (up, down), strict=True)
    ]
    return changed[0], changed[1]


def block_diagonal(up: Structure, down: Structure, name: str) -> Structure:
    """Both spins of a structure as one with spin blocks, [[up, 0], [0, down]], for the states of both together.

    Args:
        up, down: with or without matrices.
        name: of the result.

    Raises:
        DataError: they are two different structures.
    """
    up, down = with_same_pairs(up, down)
    result = replace(up, name=name, spinful=True, hamiltonian=None, h0=None)
    if up.hamiltonian is None or down.hamiltonian is None:
        return result
    edges = up.edges
    whole = np.zeros(block_starts(edges[:, 3:].T, up.numbers, result.basis)[-1], np.complex128)
    one_spin = species_entries(edges, up.numbers, up.basis)
    both = species_entries(edges, up.numbers, result.basis)
    for (_, inside), (_, where) in zip(one_spin, both, strict=True):
        _, rows, columns = inside.shape
        whole[where[:, :rows, :columns]] = up.hamiltonian[inside]
        whole[where[:, rows:, columns:]] = down.hamiltonian[inside]
    return replace(result, hamiltonian=whole)


def named_spin(name: str) -> tuple[str, str | None]:
    """Name of a calculation and spin in the name of a structure, NAME_up or NAME_down; the spin of others is None."""
    calculation, _, spin = name.rpartition("_")
    return (calculation, spin) if calculation and spin in SPINS else (name, None)


def in_pairs(names: Sequence[str], where: str) -> list[str]:
    """Names of structures in pairs, NAME_up and NAME_down.

    Raises:
        DataError: a name without a spin, or a structure whose other spin is missing.
    """
    calculations: dict[str, None] = {}
    for name in names:
        calculation, spin = named_spin(name)
        if spin is None:
            raise DataError(
                f"{where}: {name} has no spin in its name; spin=both needs output of a collinear calculation, or "
                "structures NAME_up and NAME_down as convert spin=both writes them: leave spin out, or choose others "
                "(include)"
            )
        calculations[calculation] = None
    pairs = [f"{calculation}_{spin}" for calculation in calculations for spin in SPINS]
    missing = sorted(set(pairs) - set(names))
    if missing:
        raise DataError(
            f"{where}: {missing[0]} is missing; spin=both needs both spins of each structure: convert the "
            "calculation again with spin=both, or leave the structure out (include)"
        )
    return pairs
