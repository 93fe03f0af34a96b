"""The chemical elements: symbols, atomic numbers and covalent radii."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import SupportsIndex

import numpy as np

_IN_ORDER = """
X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr
Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb
Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf
Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og
"""
# Symbol of each atomic number; X stands for an unknown element.
SYMBOLS = tuple(_IN_ORDER.split())
NUMBERS = {symbol: number for number, symbol in enumerate(SYMBOLS)}
# Covalent radii of H to Cm in picometre (Cordero et al., Dalton Trans. 2008, 2832).
_PICOMETRES = """
31 28 128 96 84 76 71 66 57 58 166 141 121 111 107 105 102 106 203 176 170 160 153 139 139 132 126
124 132 122 122 120 119 120 120 116 220 195 190 175 164 154 147 146 142 139 145 144 142 139 139 138
139 140 244 215 207 204 203 201 199 198 198 196 194 192 192 189 190 187 187 175 170 162 151 144 141
136 136 132 145 146 148 140 150 150 260 221 215 206 200 196 190 187 180 169
"""
# Covalent radius of each atomic number, angstrom: 0.2 for X, 2.0 for elements beyond Cm, of which none is tabulated.
COVALENT_RADII = np.full(len(SYMBOLS), 2.0)
COVALENT_RADII[:97] = np.array([20, *map(int, _PICOMETRES.split())]) / 100


def labelled_element(label: str) -> int | None:
    """Atomic number of the symbol with which a label such as Fe, Fe1 or Fe_up starts; None if there is none."""
    match = re.match(r"[A-Z][a-z]?(?![A-Za-z])", label)
    return NUMBERS.get(match[0]) or None if match else None


def formula(numbers: Iterable[SupportsIndex]) -> str:
    """Chemical formula of these atomic numbers: C and H first, then the others by their symbols, such as C2H6O."""
    counts = Counter(SYMBOLS[number] for number in numbers)
    symbols = [symbol for symbol in ("C", "H") if symbol in counts] + sorted(counts.keys() - {"C", "H"})
    return "".join(f"{symbol}{counts[symbol] if counts[symbol] > 1 else ''}" for symbol in symbols)
