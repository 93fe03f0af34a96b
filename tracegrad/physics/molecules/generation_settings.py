"""Settings of a generation, the key that must be equal when it is continued, and its provenance."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from pyscf.dft import libxc

from tracegrad.errors import ConfigError
from tracegrad.physics.continuing import versions
from tracegrad.physics.molecules.dft import BASIS, GRID_LEVEL, XC_CODES
from tracegrad.physics.molecules.dynamics import DynamicsSettings
from tracegrad.physics.molecules.geometries import Geometry, fingerprint

# The functionals of the paper's data: QH9 stable, and dynamic in its 100k version.
FUNCTIONAL_OF_FLAVOUR = {"stable": "b3lyp5", "dynamic": "b3lyp"}


@dataclass
class GenerationSettings(DynamicsSettings):
    """Everything that determines the numbers of a generated database, besides its geometries.

    `rattle` is in angstrom. Without a `functional` it is that of the paper's data of this flavour.
    """

    flavour: str = "stable"
    seed: int = 0
    copies: int = 1
    rattle: list[float] = field(default_factory=list)
    frames: int = 100

    def __post_init__(self) -> None:
        if self.flavour not in FUNCTIONAL_OF_FLAVOUR:
            raise ConfigError(f"flavour={self.flavour} is unknown; it is stable or dynamic")
        self.functional = self.xc
        if self.xc not in XC_CODES:
            raise ConfigError(f"functional={self.functional} is unknown; it is {', '.join(XC_CODES)}")
        for name, least in (
            ("seed", 0),
            ("max_cycle", 1),
            ("copies", 1),
            ("frames", 1),
            ("stride", 1),
            ("equilibration", 0),
        ):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}={getattr(self, name)} has to be at least {least}")
        for name in ("time_step", "temperature", "conv_tol"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"{name}={value} has to be positive")
        if any(not 0 <= deviation < float("inf") for deviation in self.rattle):
            raise ConfigError(f"rattle={self.rattle} has to be standard deviations in angstrom, 0 or more")
        if self.rattle and self.flavour == "dynamic":
            raise ConfigError("rattle is for flavour=stable; a trajectory is disturbed by its temperature")

    @property
    def xc(self) -> str:
        """The functional of the settings, or else that of the flavour."""
        return self.functional or FUNCTIONAL_OF_FLAVOUR[self.flavour]

    @property
    def frames_per_item(self) -> int:
        """Frames of each trajectory (dynamic); 1 for a geometry (stable)."""
        return self.frames if self.flavour == "dynamic" else 1

    def in_use(self) -> dict[str, Any]:
        """The settings that the flavour uses."""
        unused = {
            "stable": ("frames", "stride", "equilibration", "time_step", "temperature"),
            "dynamic": ("rattle",),
        }[self.flavour]
        return {name: value for name, value in asdict(self).items() if name not in unused}


def label_versions() -> dict[str, str]:
    """Versions of the software that labels depend on."""
    return versions("numpy", "pyscf", "ase") | {"libxc": libxc.__version__}


def resume_key(settings: GenerationSettings, items: Sequence[Geometry]) -> dict[str, Any]:
    """The settings, geometries and versions that must be equal for a partial file to be continued."""
    needed = {f"{name} version": label_versions()[name] for name in ("numpy", "pyscf", "libxc", "ase")}
    return {
        **settings.in_use(),
        "basis": BASIS,
        "grid level": GRID_LEVEL,
        "molecules": _molecule_counts(items),
        "geometries (sha256)": fingerprint(items),
        **needed,
    }


def provenance(
    settings: GenerationSettings,
    items: Sequence[Geometry],
    kept: Sequence[int],
    left_out: list[dict[str, str]],
    rows: int,
    digest: str,
    command: str,
) -> dict[str, Any]:
    """The content of the provenance file of a database: how it was computed, and what it contains."""
    dynamic = settings.flavour == "dynamic"
    molecules: list[dict[str, Any]] = []
    for item in kept:
        geometry = items[item]
        if not molecules or molecules[-1]["name"] != geometry.molecule:
            molecules.append({"name": geometry.molecule, "formula": geometry.formula, "rows": 0})
        molecules[-1]["rows"] += settings.frames_per_item
    return {
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "flavour": settings.flavour,
        "functional": settings.functional,
        "basis": BASIS,
        "grid level": GRID_LEVEL,
        "settings": settings.in_use(),
        "seeds": f"[{settings.seed}, trajectory]" if dynamic else f"[{settings.seed}, geometry, level, copy]",
        "units": {
            "Ham": "hartree",
            "pos": "bohr" if dynamic else "angstrom",
            **({"ekin, epot, etot": "hartree", "time": "atomic units"} if dynamic else {}),
        },
        "versions": label_versions(),
        "counts": {"rows": rows, "trajectories" if dynamic else "geometries": len(kept)},
        "molecules": molecules,
        "left out": left_out,
        "sha256": digest,
    }


def _molecule_counts(items: Sequence[Geometry]) -> str:
    counts: dict[str, int] = {}
    for geometry in items:
        counts[geometry.molecule] = counts.get(geometry.molecule, 0) + 1
    return ", ".join(name if count == 1 else f"{count} {name}" for name, count in counts.items())
