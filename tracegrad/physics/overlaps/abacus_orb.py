"""Radial functions in ABACUS' ``.orb`` files.

```text
Element                    Si
Radius Cutoff(a.u.)        8             bohr
Lmax                       2
Number of Sorbital-->      2             and so on for P, D, F ...
Mesh                       801           number of points
dr                         0.01          bohr
Type  L  N                               a title before each function
0  0  0                                  type, l, number from 0
1.47e-01 ...                             R at r = 0, dr, 2 dr ...
```
"""

from pathlib import Path

import numpy as np
from scipy.interpolate import CubicSpline

from tracegrad.elements import NUMBERS
from tracegrad.errors import BasisError
from tracegrad.hamiltonian.basis import LETTERS
from tracegrad.physics.overlaps.numbers_in_text import read_lines, to_numbers, to_whole
from tracegrad.physics.overlaps.radial_shells import RadialShell, RadialShells

_MOST_POINTS, _MOST_FUNCTIONS = 1_000_000, 100
_NEEDED = ("Element", "Radius Cutoff(a.u.)", "Lmax", "Mesh", "dr")


def read_orb(path: str | Path) -> RadialShells:
    """All radial functions of an ``.orb`` file.

    Raises:
        BasisError: the file cannot be read or is damaged; the message names the line.
    """
    path = Path(path)
    lines = read_lines(path)
    header, first = _header(path, lines)
    symbol, where = header["Element"]
    if symbol not in NUMBERS:
        raise BasisError(f"{where}: {symbol!r} is no element; give an .orb file of ABACUS")
    highest = to_whole(*_named(header, "Lmax"), 0, len(LETTERS) - 1)
    points = to_whole(*_named(header, "Mesh"), 4, _MOST_POINTS)
    step = float(to_numbers([header["dr"][0]], header["dr"][1])[0])
    cutoff = float(to_numbers([header["Radius Cutoff(a.u.)"][0]], header["Radius Cutoff(a.u.)"][1])[0])
    if not (step > 0 and abs((points - 1) * step - cutoff) <= 1.5 * step):
        raise BasisError(
            f"{header['dr'][1]}: {points} points with dr = {step:g} bohr do not end at the cutoff of {cutoff:g} "
            "bohr; take an undamaged file"
        )
    mesh = step * np.arange(points)
    shells = []
    words = [(word, n) for n in range(first, len(lines)) for word in lines[n].split()]
    place = 0
    for degree in range(highest + 1):
        key = f"Number of {LETTERS[degree].upper()}orbital-->"
        if key not in header:
            raise BasisError(
                f"{path}: has no line {key!r}, although Lmax announces it; take an undamaged file"
            )
        for zeta in range(to_whole(*_named(header, key), 0, _MOST_FUNCTIONS)):
            chunk = words[place : place + 6 + points]
            where = f"{path}, line {chunk[0][1] + 1 if chunk else len(lines)}"
            if len(chunk) < 6 + points:
                raise BasisError(
                    f"{where}: the file ends in function {zeta + 1} with l = {degree}; take an undamaged file"
                )
            title = [word for word, _ in chunk[:6]]
            if title[:3] != ["Type", "L", "N"] or title[4:] != [str(degree), str(zeta)]:
                raise BasisError(
                    f"{where}: 'Type L N' and '0 {degree} {zeta}' are expected, not {' '.join(title)!r}; "
                    "take an undamaged file"
                )
            values = to_numbers([word for word, _ in chunk[6:]], f"{where} and below")
            slopes = CubicSpline(mesh, values)(mesh, 1)
            shells.append(RadialShell(degree, mesh, values, slopes, float(mesh[-1])))
            place += 6 + points
    if place < len(words):
        where = f"{path}, line {words[place][1] + 1}"
        raise BasisError(f"{where}: {words[place][0]!r} follows the last function; take an undamaged file")
    return RadialShells(str(path), NUMBERS[symbol], tuple(shells))


def _header(path: Path, lines: list[str]) -> tuple[dict[str, tuple[str, str]], int]:
    """Value and place of each line before the first function, and the position of the line of its title."""
    header: dict[str, tuple[str, str]] = {}
    for number, line in enumerate(lines):
        words = line.split()
        if words[:2] == ["Type", "L"]:
            missing = [key for key in _NEEDED if key not in header]
            if missing:
                raise BasisError(f"{path}: has no {', '.join(missing)}; give an .orb file of ABACUS")
            return header, number
        if len(words) > 1:
            header[" ".join(words[:-1])] = (words[-1], f"{path}, line {number + 1}")
    raise BasisError(f"{path}: has no line 'Type L N', so no radial function; give an .orb file of ABACUS")


def _named(header: dict[str, tuple[str, str]], key: str) -> tuple[str, str, str]:
    word, where = header[key]
    return word, key, where
