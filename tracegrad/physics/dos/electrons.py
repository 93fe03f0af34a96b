"""Number of electrons of a cell: the sum of the valence charges of its atoms.

With pseudopotentials cores are not in the Hamiltonian, and the charges are those of the pseudopotentials: 4 for
carbon, 15 for bismuth with its 5d electrons. Basis files of OpenMX and SIESTA have them, ``.orb`` files of ABACUS do
not. In H of codes with all electrons, such as FHI-aims, the 1s levels show that the charge is the atomic number.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int64

from tracegrad.data.crystals.structure import Structure, on_site_levels
from tracegrad.elements import NUMBERS, SYMBOLS
from tracegrad.errors import ConfigError, DataError
from tracegrad.physics.overlaps.radial_shells import RadialShells
from tracegrad.units import EV_PER_HARTREE

# A level deeper than this share of that of the bare nucleus is 1s, which has 0.4 or more (Li, LDA); 2s has 0.2.
_CORE_SHARE = 0.3


def charges_in_files(shells: Mapping[int, RadialShells]) -> dict[int, float]:
    """Valence charges by atomic number, of the elements whose basis files have them."""
    return {number: one.valence for number, one in shells.items() if one.valence is not None}


def charges_with_cores(structure: Structure) -> dict[int, float]:
    """Atomic numbers as charges of the elements whose 1s level is in H, by atomic number."""
    levels: dict[int, float] = {}
    for z, of_atom in zip(structure.numbers.tolist(), on_site_levels(structure), strict=True):
        levels[z] = max(levels.get(z, -math.inf), float(of_atom.min()))
    least = _CORE_SHARE * EV_PER_HARTREE / 2
    return {z: float(z) for z, lowest in levels.items() if lowest < -least * z**2}


def read_charges(table: Any) -> dict[int, float]:
    """Valence charges by atomic number from a table such as {"C": 4, "Bi": 15}.

    Raises:
        ConfigError: this is no table, an element does not exist, or a charge is not a number above 0.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"valence={table} is not a table; give a table such as 'valence={{C: 4, Bi: 15}}'")
    charges = {}
    for symbol, value in table.items():
        if symbol not in NUMBERS:
            raise ConfigError(f"valence: {symbol!r} is no element; give symbols such as C or Bi")
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise ConfigError(f"valence: {symbol} has {value!r} electrons; give a number above 0")
        charges[NUMBERS[symbol]] = float(value)
    return charges


def electrons_of_atoms(
    numbers: Int64[np.ndarray, " atoms"],
    charges: Mapping[int, float],
    where: str,
    *,
    otherwise: str = ", or fermi_level (eV)",
) -> float:
    """Sum of the valence charges.

    Args:
        numbers: atomic numbers.
        charges: valence charge by atomic number.
        where: name of the structure, for messages.
        otherwise: what can be given besides charges and electrons, for messages.

    Raises:
        DataError: an element has no charge.
    """
    missing = [SYMBOLS[z] for z in np.unique(numbers).tolist() if z not in charges]
    if missing:
        example = ", ".join(f"{symbol}: NUMBER" for symbol in missing)
        raise DataError(
            f"{where}: the valence electrons of {', '.join(missing)} are not known, so the Fermi level cannot be "
            f"counted; give 'valence={{{example}}}' or electrons=NUMBER of the cell{otherwise}"
        )
    return float(sum(charges[z] for z in numbers.tolist()))
