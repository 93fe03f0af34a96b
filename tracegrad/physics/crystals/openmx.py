"""OpenMX 3.9 and 4.0 as an engine: a self-consistent calculation that writes H and S.

The settings are those of the published recipe for bilayers (gen_example.py of DeepH-pack). Bases and pseudopotentials
are those of OpenMX's DFT_DATA19, of 2019. The folder of a calculation contains `openmx.dat` (input) and after the
calculation `openmx.out` (the history of the SCF, written at the end) and `openmx.scfout` (H and S).
"""

import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from jaxtyping import Float

from tracegrad.data.crystal_files.openmx import read_scfout
from tracegrad.data.crystals.structure import Structure
from tracegrad.errors import BasisError, ConfigError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.physics.crystals.engine import FinishedOutputs
from tracegrad.system.text_files import write_text
from tracegrad.units import ANGSTROM_PER_BOHR

SYSTEM = "openmx"  # System.Name, with which the names of all files begin
INPUT, OUT, SCFOUT = (f"{SYSTEM}.{end}" for end in ("dat", "out", "scfout"))
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
_CYCLE = re.compile(r"^\s*SCF=\s*(\d+)\s+NormRD=\s*(\S+)\s+Uele=", re.MULTILINE)
_VERSION = re.compile(r"performed by OpenMX Ver\.\s*(\S+)")
_BASIS = re.compile(r"([A-Z][a-z]?)([0-9]+\.[0-9]+)(\w*)-([a-z0-9]+)", re.ASCII)


@dataclass
class Openmx:
    """OpenMX with its settings; an `Engine`.

    Args:
        bases: ``standard``, ``light``, or a mapping element -> basis that replaces standard ones.
        energy_cutoff: of the real-space grid, rydberg.
        kmesh: k-points along the three reciprocal vectors; None derives them from `k_spacing`.
        k_spacing: largest distance of k-points in the plane, 1/angstrom with the factor 2 pi. The default gives the
            published 5 x 5 for 3 x 3 cells of bismuthene.
        criterion: of the SCF, hartree.
        max_iter: largest number of SCF cycles.
        electronic_temperature: kelvin.
        keywords: further OpenMX keywords, or other values of keywords without a separate setting.
        openmx: path or name of the program; None: ``openmx`` if it is on the PATH.
        data_path: folder with the PAO and VPS folders of OpenMX; None: that beside the folder of the program.
    """

    bases: Any = "standard"
    energy_cutoff: float = 300.0
    kmesh: list[int] | None = None
    k_spacing: float = 0.112
    criterion: float = 4e-8
    max_iter: int = 2000
    electronic_temperature: float = 300.0
    keywords: dict[str, Any] = field(default_factory=dict)
    openmx: str | None = None
    data_path: str | None = None

    title = "OpenMX"
    input_name = INPUT
    output_names = (OUT, SCFOUT)
    advice = (
        "- install OpenMX (https://www.openmx-square.org) and give the same command with openmx=PATH and "
        "data_path=PATH/DFT_DATA19;\n"
        f"- run OpenMX in each of these folders (with DATA.PATH set in {INPUT} or by data_path=PATH) and give the "
        f"same command again: it converts the {SCFOUT} files that it finds beside a complete {OUT}."
    )

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

    def settings(self) -> dict[str, Any]:
        """All settings but those that depend on the machine."""
        return {name: value for name, value in asdict(self).items() if name not in ("openmx", "data_path")}

    def describe(self, atoms: Atoms) -> dict[str, Any]:
        """Bases, cutoff, criteria and k-mesh of a calculation."""
        names = self.basis_names()
        return {
            "bases": {symbol: names[symbol] for symbol in sorted(set(atoms.symbols))},
            "energy cutoff (Ry)": self.energy_cutoff,
            "SCF criterion (hartree)": self.criterion,
            "electronic temperature (K)": self.electronic_temperature,
            "more keywords": self.keywords,
            "k-mesh": self.mesh(atoms.cell.array),
        }

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
        unknown = sorted(set(atoms.symbols) - VALENCE.keys())
        if unknown:
            raise ConfigError(
                f"no basis and pseudopotential for {', '.join(unknown)}; elements are {', '.join(VALENCE)}"
            )
        names = self.basis_names()
        chosen = {symbol: names[symbol].rpartition("-")[2] for symbol in sorted(set(atoms.symbols))}
        try:
            return dict(OrbitalBasis.openmx(chosen).shells)
        except BasisError as error:
            raise ConfigError(f"bases: {error}") from error

    def reach(self, atoms: Atoms) -> float:
        """Twice the largest cutoff radius of the bases of a crystal, angstrom."""
        names = self.basis_names()
        radii = [float(_BASIS.fullmatch(names[s])[2]) for s in set(atoms.symbols)]  # type: ignore[index]
        return 2 * max(radii) * ANGSTROM_PER_BOHR

    def mesh(self, lattice: Float[np.ndarray, "3 3"]) -> list[int]:
        """k-points along the three reciprocal vectors; 1 along the third, because of the vacuum."""
        if self.kmesh is not None:
            return list(self.kmesh)
        lengths = 2 * np.pi * np.linalg.norm(np.linalg.inv(lattice), axis=0)
        return [*(ceil(length / self.k_spacing - 1e-9) for length in lengths[:2]), 1]

    def input_text(self, atoms: Atoms, spin_orbit: bool) -> str:
        """The input without DATA.PATH; each spin starts with half of the valence electrons of every atom."""
        return self._input(atoms, spin_orbit, None)

    def write_input(self, atoms: Atoms, spin_orbit: bool, folder: Path) -> None:
        """Write `openmx.dat`; an existing one is kept if DATA.PATH is unknown, because a user may have added it."""
        data_folder = self._data_folder()
        if data_folder is None and (folder / INPUT).exists():
            return
        write_text(folder / INPUT, self._input(atoms, spin_orbit, data_folder))

    def command(self, threads: int) -> list[str] | None:
        """The command in the folder of a calculation; None if no program is named and none is on the PATH."""
        program = shutil.which(self.openmx or "openmx")
        if program is None:
            if self.openmx is not None:
                raise ConfigError(
                    f"openmx={self.openmx}: no such program that can be run; give its path or name"
                )
            return None
        return [str(Path(program).absolute()), INPUT, "-nt", str(threads)]

    def check_installation(self, crystals: Iterable[Atoms]) -> None:
        """Raise `ConfigError` if the folder of bases and pseudopotentials is unknown or lacks a file."""
        folder = self._data_folder()
        if folder is None:
            raise ConfigError("data_path is needed: the folder DFT_DATA19 of OpenMX, with PAO and VPS in it")
        names = self.basis_names()
        symbols = dict.fromkeys(symbol for atoms in crystals for symbol in atoms.symbols)
        files = [
            name
            for symbol in symbols
            for name in (f"PAO/{names[symbol].rpartition('-')[0]}.pao", f"VPS/{symbol}_PBE{DATA_YEAR}.vps")
        ]
        missing = [name for name in files if not Path(folder, name).is_file()]
        if missing:
            raise ConfigError(
                f"data_path: {folder} has no {', '.join(missing)}; give the folder DFT_DATA19 of OpenMX, or other "
                "bases"
            )

    def finished(self, folder: Path) -> FinishedOutputs | None:
        """Version, SCF cycles and last NormRD from `openmx.out`; None if an output is missing or not complete."""
        if not (folder / SCFOUT).is_file():
            return None
        try:
            text = (folder / OUT).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None
        history = _CYCLE.findall(text)
        if not history:
            return None
        cycles, residual = int(history[-1][0]), history[-1][1]
        version = _VERSION.search(text)
        failure = None
        if cycles >= self.max_iter:
            failure = f"the SCF did not converge in {cycles} cycles (NormRD {residual})"
        facts = {"SCF cycles": cycles, "NormRD": residual}
        return FinishedOutputs(f"OpenMX {version[1]}" if version else "OpenMX", facts, failure)

    def read(self, folder: Path) -> Structure:
        """The structure with H and S from `openmx.scfout`."""
        return read_scfout(folder / SCFOUT)

    def _data_folder(self) -> str | None:
        """The value of DATA.PATH."""
        command = self.command(1)
        if self.data_path is not None:
            # Without a program here, the path is one of the machine on which OpenMX will run.
            return self.data_path if command is None else str(Path(self.data_path).absolute())
        if command is None:
            return None
        folder = Path(command[0]).resolve().parent.parent / "DFT_DATA19"
        return str(folder) if folder.is_dir() else None

    def _input(self, atoms: Atoms, spin_orbit: bool, data_folder: str | None) -> str:
        names = self.basis_names()
        species = list(dict.fromkeys(atoms.symbols))
        end = " 0.0 0.0 0.0 0.0 0" if spin_orbit else ""
        rows = [
            f" {i} {symbol} {x:.12f} {y:.12f} {z:.12f} {VALENCE[symbol] / 2} {VALENCE[symbol] / 2}{end}"
            for i, (symbol, (x, y, z)) in enumerate(
                zip(atoms.symbols, atoms.get_scaled_positions(wrap=True), strict=True), 1
            )
        ]
        lines = {
            "System.Name": SYSTEM,
            **({} if data_folder is None else {"DATA.PATH": data_folder}),
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
            "scf.ElectronicTemperature": float(self.electronic_temperature),
            "scf.energycutoff": f"{self.energy_cutoff:g}",
            "scf.maxIter": self.max_iter,
            "scf.EigenvalueSolver": "Band",
            "scf.eigen.lib": "elpa1",
            "scf.Kgrid": " ".join(map(str, self.mesh(atoms.cell.array))),
            "scf.criterion": f"{self.criterion:g}",
            "scf.partialCoreCorrection": "on",
            "scf.SpinPolarization": "nc" if spin_orbit else "off",
            "scf.SpinOrbit.Coupling": "on" if spin_orbit else "off",
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
        lines |= {known.get(str(keyword).lower(), keyword): value for keyword, value in self.keywords.items()}
        return "".join(_keyword_lines(str(keyword), value) for keyword, value in lines.items())


def _keyword_lines(keyword: str, value: Any) -> str:
    if isinstance(value, list):
        return "\n".join([f"<{keyword}", *map(str, value), f"{keyword}>\n"])
    if isinstance(value, bool):
        value = "on" if value else "off"
    return f"{keyword} {value}\n"
