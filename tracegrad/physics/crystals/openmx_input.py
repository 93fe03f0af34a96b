"""Writes inputs (.dat) of OpenMX 3.9 and 4.0 for a self-consistent calculation that writes H and S.

The settings are those of the published recipe for bilayers (gen_example.py of DeepH-pack). Bases and pseudopotentials
are those of OpenMX's DFT_DATA19, of 2019.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import numpy as np
from ase import Atoms
from jaxtyping import Float

from tracegrad.errors import BasisError, ConfigError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.units import ANGSTROM_PER_BOHR

SYSTEM = "openmx"  # System.Name: OpenMX writes openmx.out and openmx.scfout
DATA_YEAR = 19

# Bases of the published databases, known by the number of their shells for Se (7), S (5) and C (5).
STANDARD = {
    "C": "C6.0-s2p2d1",
    "S": "S7.0-s2p2d1",
    "Se": "Se7.0-s3p2d2",
    "Mo": "Mo7.0-s3p2d2",
    "Te": "Te7.0-s3p2d2",
    "Bi": "Bi8.0-s3p2d2",
}
# Smaller bases, for many calculations on a small machine; the other elements keep the standard basis.
LIGHT = {**STANDARD, "C": "C5.0-s2p1d1", "S": "S7.0-s2p1d1", "Mo": "Mo7.0-s3p2d1"}
# Valence electrons of the pseudopotentials *_PBE19.
VALENCE = {"C": 4.0, "S": 6.0, "Se": 6.0, "Mo": 14.0, "Te": 16.0, "Bi": 15.0}
# Keywords that follow from the structure or have a separate setting; `keywords` must not contain them.
_FIXED = (
    "System.Name DATA.PATH HS.fileout Species.Number Definition.of.Atomic.Species Atoms.Number "
    "Atoms.SpeciesAndCoordinates.Unit Atoms.SpeciesAndCoordinates Atoms.UnitVectors.Unit Atoms.UnitVectors "
    "scf.ElectronicTemperature scf.energycutoff scf.maxIter scf.Kgrid scf.criterion scf.SpinPolarization "
    "scf.SpinOrbit.Coupling MD.Type"
)
_BASIS = re.compile(r"([A-Z][a-z]?)([0-9]+\.[0-9]+)(\w*)-([a-z0-9]+)", re.ASCII)


@dataclass
class OpenmxSettings:
    """Settings of an OpenMX calculation.

    Args:
        bases: ``standard``, ``light``, or a mapping element -> basis that replaces standard ones.
        energy_cutoff: of the real-space grid, rydberg.
        kmesh: k-points along the three reciprocal vectors; None derives them from `k_spacing`.
        k_spacing: largest distance of k-points in the plane, 1/angstrom with the factor 2 pi. The default gives the
            published 5 x 5 for 3 x 3 cells of bismuthene.
        criterion: of the SCF, hartree.
        max_iter: largest number of SCF cycles.
        electronic_temperature: kelvin.
        spin_orbit: non-collinear spin with spin-orbit coupling; None: as in the recipe of the crystal, else off.
        data_path: folder with the PAO and VPS folders of OpenMX; None leaves the keyword out.
        keywords: further OpenMX keywords, or other values of keywords without a separate setting.
    """

    bases: Any = "standard"
    energy_cutoff: float = 300.0
    kmesh: list[int] | None = None
    k_spacing: float = 0.112
    criterion: float = 4e-8
    max_iter: int = 2000
    electronic_temperature: float = 300.0
    spin_orbit: bool | None = None
    data_path: str | None = None
    keywords: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("energy_cutoff", "k_spacing", "criterion", "electronic_temperature"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name}={getattr(self, name)} has to be positive")
        if self.max_iter < 1:
            raise ConfigError(f"max_iter={self.max_iter} has to be at least 1")
        if self.kmesh is not None and (len(self.kmesh) != 3 or min(self.kmesh) < 1):
            raise ConfigError(f"kmesh={self.kmesh} has to be three whole numbers above 0, such as [5,5,1]")
        fixed = [keyword for keyword in self.keywords if str(keyword).lower() in _FIXED.lower().split()]
        if fixed:
            raise ConfigError(
                f"keywords: {fixed[0]} follows from the structure or has a separate setting; remove it"
            )
        self.basis_names()

    def basis_names(self) -> dict[str, str]:
        """Element -> name of its basis, such as C6.0-s2p2d1.

        Raises:
            ConfigError: a name is no basis of its element, or an element has no known pseudopotential.
        """
        if isinstance(self.bases, Mapping):
            names = {**STANDARD, **self.bases}
        elif self.bases in ("standard", "light"):
            names = STANDARD if self.bases == "standard" else LIGHT
        else:
            raise ConfigError(
                f"bases={self.bases} is unknown; it is standard, light or such as {{C: C5.0-s2p1d1}}"
            )
        for symbol, name in names.items():
            match = _BASIS.fullmatch(str(name))
            if match is None or match[1] != symbol:
                raise ConfigError(
                    f"bases: {name} is no basis of {symbol}; they are named such as C6.0-s2p2d1"
                )
            if symbol not in VALENCE:
                raise ConfigError(
                    f"bases: the pseudopotential of {symbol} is not known; elements are {', '.join(VALENCE)}"
                )
        return names

    def shells(self, atoms: Atoms) -> dict[int, tuple[int, ...]]:
        """Atomic number -> degrees of the shells, for the elements of a crystal."""
        names = self.basis_names()
        chosen = {symbol: names[symbol].rpartition("-")[2] for symbol in sorted(set(atoms.symbols))}
        try:
            return dict(OrbitalBasis.openmx(chosen).shells)
        except BasisError as error:
            raise ConfigError(f"bases: {error}") from error

    def radius(self, atoms: Atoms) -> float:
        """Largest cutoff radius of the bases of a crystal, angstrom; H has blocks up to twice this distance."""
        names = self.basis_names()
        return max(float(_BASIS.fullmatch(names[s])[2]) for s in set(atoms.symbols)) * ANGSTROM_PER_BOHR  # type: ignore[index]

    def mesh(self, lattice: Float[np.ndarray, "3 3"]) -> list[int]:
        """k-points along the three reciprocal vectors; 1 along the third, because of the vacuum."""
        if self.kmesh is not None:
            return list(self.kmesh)
        lengths = 2 * np.pi * np.linalg.norm(np.linalg.inv(lattice), axis=0)
        return [*(ceil(length / self.k_spacing - 1e-9) for length in lengths[:2]), 1]

    def files(self, atoms: Atoms) -> list[str]:
        """Files that a crystal needs, relative to `data_path`."""
        names = self.basis_names()
        files: list[str] = []
        for symbol in dict.fromkeys(atoms.symbols):
            files += [f"PAO/{names[symbol].rpartition('-')[0]}.pao", f"VPS/{symbol}_PBE{DATA_YEAR}.vps"]
        return files


def check_elements(atoms: Atoms, name: str) -> None:
    """Raise `ConfigError` if a crystal has elements without a known basis and pseudopotential."""
    unknown = sorted(set(atoms.symbols) - VALENCE.keys())
    if unknown:
        raise ConfigError(
            f"{name}: no basis and pseudopotential for {', '.join(unknown)}; elements are {', '.join(VALENCE)}"
        )


def openmx_input(atoms: Atoms, settings: OpenmxSettings) -> str:
    """The input file of a crystal; each spin starts with half of the valence electrons of every atom."""
    names = settings.basis_names()
    species = list(dict.fromkeys(atoms.symbols))
    end = " 0.0 0.0 0.0 0.0 0" if settings.spin_orbit else ""
    rows = [
        f" {i} {symbol} {x:.12f} {y:.12f} {z:.12f} {VALENCE[symbol] / 2} {VALENCE[symbol] / 2}{end}"
        for i, (symbol, (x, y, z)) in enumerate(
            zip(atoms.symbols, atoms.get_scaled_positions(wrap=True), strict=True), 1
        )
    ]
    lines = {
        "System.Name": SYSTEM,
        **({} if settings.data_path is None else {"DATA.PATH": settings.data_path}),
        "HS.fileout": "on",
        "level.of.stdout": 1,
        "level.of.fileout": 0,
        "Species.Number": len(species),
        "Definition.of.Atomic.Species": [f"  {s}  {names[s]}  {s}_PBE{DATA_YEAR}" for s in species],
        "Atoms.Number": len(atoms),
        "Atoms.SpeciesAndCoordinates.Unit": "FRAC",
        "Atoms.SpeciesAndCoordinates": rows,
        "Atoms.UnitVectors.Unit": "Ang",
        "Atoms.UnitVectors": [f"  {x:.12f} {y:.12f} {z:.12f}" for x, y, z in atoms.cell.array],
        "scf.XcType": "GGA-PBE",
        "scf.ElectronicTemperature": float(settings.electronic_temperature),
        "scf.energycutoff": f"{settings.energy_cutoff:g}",
        "scf.maxIter": settings.max_iter,
        "scf.EigenvalueSolver": "Band",
        "scf.eigen.lib": "elpa1",
        "scf.Kgrid": " ".join(map(str, settings.mesh(atoms.cell.array))),
        "scf.criterion": f"{settings.criterion:g}",
        "scf.partialCoreCorrection": "on",
        "scf.SpinPolarization": "nc" if settings.spin_orbit else "off",
        "scf.SpinOrbit.Coupling": "on" if settings.spin_orbit else "off",
        "scf.Mixing.Type": "RMM-DIISK",
        "scf.Init.Mixing.Weight": 0.3,
        "scf.Mixing.History": 30,
        "scf.Mixing.StartPulay": 6,
        "scf.Mixing.EveryPulay": 1,
        "1DFFT.EnergyCutoff": 3600,
        "1DFFT.NumGridK": 900,
        "1DFFT.NumGridR": 900,
        "scf.ProExpn.VNA": "off",
        "MD.Type": "Nomd",
    }
    known = {keyword.lower(): keyword for keyword in lines}
    lines |= {known.get(str(keyword).lower(), keyword): value for keyword, value in settings.keywords.items()}
    return "".join(_keyword_lines(str(keyword), value) for keyword, value in lines.items())


def _keyword_lines(keyword: str, value: Any) -> str:
    if isinstance(value, list):
        return "\n".join([f"<{keyword}", *map(str, value), f"{keyword}>\n"])
    if isinstance(value, bool):
        value = "on" if value else "off"
    return f"{keyword} {value}\n"
