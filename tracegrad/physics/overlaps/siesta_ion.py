"""Radial functions in SIESTA's ``.ion.xml`` files.

Each ``<orbital l n z ispol population>`` in ``<paos>`` has a ``<radfunc>`` with ``<npts>``, ``<delta>``, ``<cutoff>``
and ``<data>``: rows of r (bohr) and R(r) / r^l. Projectors and potentials of the file are not read. A document type
is refused, so that the file cannot define entities.
"""

from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np
from scipy.interpolate import CubicSpline

from tracegrad.elements import SYMBOLS
from tracegrad.errors import BasisError
from tracegrad.physics.overlaps.numbers_in_text import read_bytes, to_numbers, to_whole, valence_charge
from tracegrad.physics.overlaps.radial_shells import RadialShell, RadialShells

_LARGEST_DEGREE, _MOST_POINTS = 6, 1_000_000


def read_ion_xml(path: str | Path) -> RadialShells:
    """All radial functions of an ``.ion.xml`` file, in its order, which is that of SIESTA's orbitals.

    Raises:
        BasisError: the file cannot be read or is damaged; the message names the line.
    """
    path = Path(path)
    found = _Orbitals(path)
    content = read_bytes(path)
    try:
        found.parser.Parse(content, True)
    except expat.ExpatError as error:
        raise BasisError(
            f"{path}, line {error.lineno}: {expat.ErrorString(error.code)}; give an .ion.xml file of SIESTA"
        ) from error
    if found.number is None:
        raise BasisError(f"{path}: has no <z>, the atomic number; give an .ion.xml file of SIESTA")
    number = to_whole(found.number[0], "<z>", found.number[1], 1, len(SYMBOLS) - 1)
    charge = (
        None if found.valence is None else valence_charge(found.valence[0], "<valence>", found.valence[1])
    )
    return RadialShells(str(path), number, tuple(map(_shell, found.orbitals)), valence=charge)


class _Orbitals:
    """The texts of the elements that are needed, each with its place.

    Attributes:
        number: text of <z>.
        valence: text of <valence>, the number of valence electrons.
        orbitals: for each <orbital> in <paos>: l, and the texts of npts, delta, cutoff and data.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number: tuple[str, str] | None = None
        self.valence: tuple[str, str] | None = None
        self.orbitals: list[dict[str, tuple[str, str]]] = []
        self._open: list[str] = []
        self._text: list[str] = []
        self._place = ""
        self.parser: Any = expat.ParserCreate()
        self.parser.StartDoctypeDeclHandler = self._refuse
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._characters

    def _where(self) -> str:
        return f"{self.path}, line {self.parser.CurrentLineNumber}"

    def _refuse(self, *_: Any) -> None:
        raise BasisError(f"{self._where()}: a document type, which SIESTA never writes; take its own file")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._open.append(name)
        self._text, self._place = [], self._where()
        if self._open[-2:] == ["paos", "orbital"]:
            self.orbitals.append({"l": (attributes.get("l", "").strip(), self._place)})

    def _characters(self, text: str) -> None:
        self._text.append(text)

    def _end(self, name: str) -> None:
        content = ("".join(self._text).strip(), self._place)
        if self._open == ["ion", "z"]:
            self.number = content
        if self._open == ["ion", "valence"]:
            self.valence = content
        if self._open[1:4] == ["paos", "orbital", "radfunc"] and len(self._open) == 5:
            self.orbitals[-1][name] = content
        self._open.pop()
        self._text = []


def _shell(orbital: dict[str, tuple[str, str]]) -> RadialShell:
    place = orbital["l"][1]
    missing = [key for key in ("npts", "delta", "cutoff", "data") if key not in orbital]
    if missing:
        raise BasisError(f"{place}: the orbital has no <{'>, <'.join(missing)}>; take an undamaged file")
    degree = to_whole(orbital["l"][0], "l of the orbital", place, 0, _LARGEST_DEGREE)
    points = to_whole(orbital["npts"][0], "<npts>", orbital["npts"][1], 4, _MOST_POINTS)
    text, where = orbital["cutoff"]
    cutoff = float(to_numbers([text], where)[0])
    text, where = orbital["data"]
    numbers = to_numbers(text.split(), f"<data> from {where}")
    if len(numbers) != 2 * points:
        raise BasisError(
            f"{where}: <data> has {len(numbers)} numbers, but {points} rows of two are needed; take an undamaged file"
        )
    mesh, values = numbers.reshape(-1, 2).T.copy()
    if mesh[0] != 0 or (np.diff(mesh) <= 0).any() or not abs(mesh[-1] - cutoff) <= 1e-6 * cutoff:
        raise BasisError(
            f"{where}: r of <data> does not ascend from 0 to the cutoff of {cutoff:g} bohr; take an undamaged file"
        )
    # R(r) / r^l is even in r, so that its slope is 0 at the nucleus.
    slopes = CubicSpline(mesh, values, bc_type=((1, 0.0), "not-a-knot"))(mesh, 1)
    return RadialShell(degree, mesh, values, slopes, float(mesh[-1]), power=degree)
