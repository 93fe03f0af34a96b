"""Basis files of OpenMX, ABACUS and SIESTA with Gaussian orbitals, whose overlaps are known."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tracegrad.elements import NUMBERS
from tracegrad.hamiltonian.basis import LETTERS


@dataclass(frozen=True)
class GaussianShell:
    """R(r) = N r^l exp(-a r^2); a is in 1/bohr^2."""

    degree: int
    exponent: float

    def without_power(self, r: np.ndarray) -> np.ndarray:
        """R(r) / r^l."""
        l, a = self.degree, self.exponent  # noqa: E741
        norm = math.sqrt(2 * (2 * a) ** (l + 1.5) / math.gamma(l + 1.5))
        return norm * np.exp(-a * r**2)

    def __call__(self, r: np.ndarray) -> np.ndarray:
        return r**self.degree * self.without_power(r)


def _rows(values: np.ndarray, columns: int = 4) -> str:
    rows = (values[n : n + columns] for n in range(0, len(values), columns))
    return "".join(" ".join(f"{value: .15e}" for value in row) + "\n" for row in rows)


def write_pao(
    folder: Path,
    symbol: str,
    shells: list[GaussianShell],
    cutoff: float = 7.0,
    points: int = 2500,
    valence: str | None = None,
) -> Path:
    """A ``.pao`` file; every degree has as many functions as the degree with most of them."""
    path = folder / f"{symbol}{cutoff:.1f}.pao"
    highest = max(shell.degree for shell in shells)
    of = [[shell for shell in shells if shell.degree == degree] for degree in range(highest + 1)]
    count = max(map(len, of))
    x = np.linspace(-8.0, math.log(1.2 * cutoff), points)
    r = np.exp(x)
    text = f" made for a test\nAtomSpecies   {NUMBERS[symbol]}   # comment\nradial.cutoff.pao   {cutoff} # bohr\n"
    text += f"PAO.Lmax   {highest}\nPAO.Mul    {count}\n"
    text += "" if valence is None else f"total.electron   6.5\nvalence.electron   {valence}\n"
    for degree, members in enumerate(of):
        members = members + [GaussianShell(degree, 0.9 + 0.1 * n) for n in range(count - len(members))]
        table = np.stack([x, r, *(np.where(r <= cutoff, shell(r), 0.0) for shell in members)], axis=1)
        body = _rows(table.ravel(), count + 2)
        text += f"<pseudo.atomic.orbitals.L={degree}\n{body}pseudo.atomic.orbitals.L={degree}>\n"
    path.write_text(text)
    return path


def write_orb(
    folder: Path, symbol: str, shells: list[GaussianShell], cutoff: float = 7.0, step: float = 0.01
) -> Path:
    """An ``.orb`` file."""
    path = folder / f"{symbol}_test.orb"
    degrees = [shell.degree for shell in shells]
    r = step * np.arange(round(cutoff / step) + 1)
    lines = ["-" * 75, f"Element                    {symbol}", "Energy Cutoff(Ry)           60"]
    lines += [f"Radius Cutoff(a.u.)         {cutoff:g}", f"Lmax                        {max(degrees)}"]
    lines += [
        f"Number of {LETTERS[degree].upper()}orbital-->       {degrees.count(degree)}"
        for degree in range(max(degrees) + 1)
    ]
    lines += ["-" * 75, "SUMMARY  END", "", f"Mesh                        {len(r)}", f"dr    {step:g}", ""]
    text = "\n".join(lines)
    for n, shell in enumerate(shells):
        zeta = degrees[:n].count(shell.degree)
        text += f"    Type      L      N\n    0     {shell.degree}     {zeta}\n" + _rows(shell(r))
    path.write_text(text)
    return path


def write_ion_xml(
    folder: Path,
    symbol: str,
    shells: list[GaussianShell],
    cutoff: float = 7.0,
    points: int = 701,
    valence: str | None = None,
) -> Path:
    """An ``.ion.xml`` file, with a projector that is no orbital."""
    path = folder / f"{symbol}.ion.xml"
    r = np.linspace(0.0, cutoff, points)

    def radfunc(values: np.ndarray) -> str:
        return (
            f"<radfunc>\n<npts> {points} </npts>\n<delta> {r[1]:.12e} </delta>\n<cutoff> {cutoff:.12f} </cutoff>\n"
            f"<data>\n{_rows(np.stack([r, values], axis=1).ravel(), 2)}</data>\n</radfunc>\n"
        )

    text = f'<ion version="0.1">\n<symbol> {symbol} </symbol>\n<z> {NUMBERS[symbol]} </z>\n'
    text += "" if valence is None else f"<valence> {valence} </valence>\n"
    text += "<preamble>\n"
    text += "<basis_specs>\nCharge= 0.17977+309\n</basis_specs>\n</preamble>\n<paos>\n"
    for shell in shells:
        text += f'<orbital\n l="   {shell.degree}"\n n="2"\n z="1"\n ispol="0"\n population="1.0"\n >\n'
        text += radfunc(shell.without_power(r)) + "</orbital>\n"
    text += (
        f'</paos>\n<kbs>\n<projector l="0" n="1" >\n{radfunc(np.ones(points))}</projector>\n</kbs>\n</ion>\n'
    )
    path.write_text(text)
    return path
