"""Radial functions in OpenMX's ``.pao`` files.

```text
AtomSpecies 6                            atomic number
radial.cutoff.pao 6.0                    cutoff, bohr
PAO.Lmax 3
PAO.Mul 15                               number of functions of each l
valence.electron 4.0                     valence electrons of the atom
<pseudo.atomic.orbitals.L=0
 ln r   r   R_0(r)   R_1(r) ...          a logarithmic mesh
pseudo.atomic.orbitals.L=0>
```

"s2p2d1" takes the first 2, 2 and 1 functions. Their norms differ from 1 by up to 2 %, and stay as they are. As in
OpenMX, they are interpolated by cubic polynomials in r whose slope at a point is that of the parabola through the
point and its two neighbours: a spline would change overlaps by up to 2e-4.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from tracegrad.elements import SYMBOLS
from tracegrad.errors import BasisError
from tracegrad.physics.overlaps.numbers_in_text import read_lines, to_numbers, to_whole, valence_charge
from tracegrad.physics.overlaps.radial_shells import RadialShell, RadialShells

_KEYS = ("AtomSpecies", "radial.cutoff.pao", "PAO.Lmax", "PAO.Mul")
_VALENCE = "valence.electron"  # not in every file
_LARGEST_DEGREE, _MOST_FUNCTIONS = 8, 100


def read_pao(path: str | Path) -> RadialShells:
    """All radial functions of a ``.pao`` file.

    Raises:
        BasisError: the file cannot be read or is damaged; the message names the line.
    """
    path = Path(path)
    lines = read_lines(path)
    values = _keywords(path, lines)
    number, where = values["AtomSpecies"]
    element = to_whole(number, "AtomSpecies", where, 1, len(SYMBOLS) - 1)
    text, where = values["radial.cutoff.pao"]
    cutoff = float(to_numbers([text], where)[0])
    highest = to_whole(values["PAO.Lmax"][0], "PAO.Lmax", values["PAO.Lmax"][1], 0, _LARGEST_DEGREE)
    count = to_whole(values["PAO.Mul"][0], "PAO.Mul", values["PAO.Mul"][1], 1, _MOST_FUNCTIONS)
    shells: list[RadialShell] = []
    for degree in range(highest + 1):
        mesh, functions = _table(path, lines, degree, count)
        if not 0 < cutoff <= mesh[-1]:
            raise BasisError(
                f"{where}: radial.cutoff.pao is {text}, but the mesh ends at {mesh[-1]:.4g} bohr; "
                "take an undamaged file"
            )
        shells += [RadialShell(degree, mesh, f, parabola_slopes(mesh, f), cutoff) for f in functions]
    charge = None
    if _VALENCE in values:
        text, where = values[_VALENCE]
        charge = valence_charge(text, _VALENCE, where)
    return RadialShells(str(path), element, tuple(shells), more=True, valence=charge)


def parabola_slopes(
    mesh: Float[np.ndarray, " points"], values: Float[np.ndarray, " points"]
) -> Float[np.ndarray, " points"]:
    """Slope at each point of the parabola through it and its two neighbours, at the ends of the last parabola."""
    steps = np.diff(mesh)
    quotients = np.diff(values) / steps
    slopes = np.empty_like(values)
    slopes[1:-1] = (quotients[:-1] * steps[1:] + quotients[1:] * steps[:-1]) / (steps[:-1] + steps[1:])
    slopes[0] = 2 * quotients[0] - slopes[1]
    slopes[-1] = 2 * quotients[-1] - slopes[-2]
    return slopes


def _keywords(path: Path, lines: list[str]) -> dict[str, tuple[str, str]]:
    """Value of each keyword and its place; the last one counts, behind the log of how the functions were made."""
    found: dict[str, tuple[str, str]] = {}
    for number, line in enumerate(lines, 1):
        words = line.split(None, 2)
        if len(words) > 1 and words[0] in (*_KEYS, _VALENCE):
            found[words[0]] = (words[1], f"{path}, line {number}")
    missing = [key for key in _KEYS if key not in found]
    if missing:
        raise BasisError(f"{path}: has no {', '.join(missing)}; give a .pao file of OpenMX")
    return found


def _table(
    path: Path, lines: list[str], degree: int, count: int
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, "count points"]]:
    """Mesh and functions of one degree."""
    name = f"pseudo.atomic.orbitals.L={degree}"
    starts = [n for n, line in enumerate(lines) if line.strip() == f"<{name}"]
    ends = [n for n, line in enumerate(lines) if line.strip() == f"{name}>"]
    if len(starts) != 1 or len(ends) != 1 or ends[0] - starts[0] < 4:
        raise BasisError(
            f"{path}: has no complete block <{name} ... {name}>, although PAO.Lmax announces it; "
            "take an undamaged file"
        )
    rows = []
    for n in range(starts[0] + 1, ends[0]):
        words, where = lines[n].split(), f"{path}, line {n + 1}"
        if len(words) != count + 2:
            raise BasisError(
                f"{where}: {len(words)} numbers, but ln r, r and {count} functions are needed; take an undamaged file"
            )
        rows.append(to_numbers(words, where))
        if rows[-1][1] <= (rows[-2][1] if len(rows) > 1 else 0.0):
            raise BasisError(f"{where}: r = {words[1]} does not ascend from above 0; take an undamaged file")
    table = np.array(rows).T
    return table[1].copy(), table[2:].copy()
