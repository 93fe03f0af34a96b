"""The table of elements is that of ASE, which the package needs only for geometry files and structures."""

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols, covalent_radii
from hypothesis import given
from hypothesis import strategies as st

from tracegrad.elements import COVALENT_RADII, NUMBERS, SYMBOLS, formula


def test_the_tables_are_those_of_ase() -> None:
    assert list(SYMBOLS) == chemical_symbols
    assert atomic_numbers == NUMBERS
    known = slice(0, 97)  # versions of ASE differ in what they write for elements without a radius
    np.testing.assert_array_equal(COVALENT_RADII[known], covalent_radii[known])


@given(st.lists(st.integers(1, 118), max_size=8))
def test_a_formula_is_that_of_ase(numbers: list[int]) -> None:
    assert formula(numbers) == Atoms(numbers).get_chemical_formula()
