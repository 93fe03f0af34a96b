"""Groups of orbitals onto which a density of states is projected."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64

from tracegrad.elements import SYMBOLS
from tracegrad.errors import ConfigError
from tracegrad.hamiltonian.basis import LETTERS, SPINS, OrbitalBasis

KINDS = ("element", "shell")
REST = "rest"  # name of the group of all atoms that a table leaves out


@dataclass(frozen=True, eq=False)
class OrbitalGroups:
    """Disjoint groups of the orbitals of a structure.

    Args:
        names: such as "C p".
        of_orbital: position of the group of each row of H(k).
    """

    names: tuple[str, ...]
    of_orbital: Int64[np.ndarray, " size"]

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sums of values over the orbitals of each group.

        Args:
            values: of shape (orbitals, ...).

        Returns:
            Of shape (groups, ...).
        """
        totals = np.zeros((len(self.names), *values.shape[1:]), values.dtype)
        np.add.at(totals, self.of_orbital, values)
        return totals


def orbital_groups(
    numbers: Int64[np.ndarray, " atoms"], basis: OrbitalBasis, kind: Any, *, by_spin: bool = False
) -> OrbitalGroups:
    """Groups of the orbitals of a molecule or a crystal.

    Args:
        numbers: atomic numbers.
        basis: of its matrices.
        kind: "element"; "shell": elements and degrees, such as "C p"; or a table of lists of atoms, counted from 1.
        by_spin: of a spinful basis, "C p up" and "C p down" are two groups.

    Raises:
        ConfigError: another kind, or the lists are not disjoint lists of atoms of the structure.
    """
    sizes = basis.sizes[numbers]
    if isinstance(kind, Mapping):
        labels = _of_table(kind, len(numbers))
        per_orbital = [label for label, size in zip(labels, sizes.tolist(), strict=True) for _ in range(size)]
    elif kind in KINDS:
        per_orbital = []
        for z in numbers.tolist():
            for degree in basis.shells[z] * basis.spins:
                name = SYMBOLS[z] if kind == "element" else f"{SYMBOLS[z]} {LETTERS[degree]}"
                per_orbital += [name] * (2 * degree + 1)
    else:
        raise ConfigError(
            f"dos_groups={kind} is not one of {', '.join(KINDS)}; give one of them or a table of atoms, such as "
            "'dos_groups={lower: [1,2], upper: [3,4]}'"
        )
    if by_spin:
        halves = [spin for size in sizes.tolist() for spin in SPINS for _ in range(size // 2)]
        per_orbital = [f"{name} {spin}" for name, spin in zip(per_orbital, halves, strict=True)]
    names = tuple(dict.fromkeys(per_orbital))
    return OrbitalGroups(names, np.array([names.index(name) for name in per_orbital], dtype=np.int64))


def _of_table(table: Mapping[Any, Any], atoms: int) -> list[str]:
    """Name of the group of each atom."""
    labels = [REST] * atoms
    for name, members in table.items():
        if not isinstance(members, list) or not members or any(type(n) is not int for n in members):
            raise ConfigError(f"dos_groups: {name} is {members!r}; give a list of atoms, counted from 1")
        for atom in members:
            if not 1 <= atom <= atoms:
                raise ConfigError(f"dos_groups: {name} has the atom {atom}, but there are atoms 1 to {atoms}")
            if labels[atom - 1] != REST:
                raise ConfigError(
                    f"dos_groups: atom {atom} is in {labels[atom - 1]} and in {name}; give it once"
                )
            labels[atom - 1] = str(name)
    return labels
