"""Settings of a database of crystals, and the key that must be equal when its generation is continued."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from tracegrad.errors import ConfigError
from tracegrad.physics.crystals.layers import CRYSTALS, Crystal
from tracegrad.physics.crystals.openmx_input import OpenmxSettings
from tracegrad.physics.crystals.twist import Twist, nearest_twist

SHIFTS = ("grid", "random", "none")
DISTURBANCES = ("gaussian", "uniform")


@dataclass
class CrystalSettings(OpenmxSettings):
    """Everything that determines the numbers of a generated database, besides geometries from files.

    Lengths are in angstrom, angles in degrees. A setting that is None has the value of the published recipe of
    `crystal`, see `layers.CRYSTALS`. With `twists` or `angles` the structures are twisted cells; there is one ideal
    cell for each twist, unless `structures` (copies) and `amplitude` (displacements) are set.
    """

    crystal: str | None = None
    structures: int | None = None
    supercell: list[int] | None = None
    height: float | None = None
    gap: float | None = None
    shifts: str = "grid"
    shift_grid: list[int] = field(default_factory=lambda: [24, 24])
    disturbance: str | None = None
    amplitude: float | None = None
    twists: Any = None
    angles: list[float] = field(default_factory=list)
    angle_tolerance: float = 0.1
    most_atoms: int = 1100
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crystal is not None and self.crystal not in CRYSTALS:
            known = ", ".join(f"{name} ({crystal.title})" for name, crystal in CRYSTALS.items())
            raise ConfigError(f"crystal={self.crystal} is unknown; it is one of {known}")
        for name, least in (("structures", 1), ("most_atoms", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name}={value} has to be at least {least}")
        for name in ("height", "gap", "amplitude"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ConfigError(f"{name}={value} has to be a length in angstrom")
        for name in ("supercell", "shift_grid"):
            value = getattr(self, name)
            if value is not None and (len(value) != 2 or min(value) < 1):
                raise ConfigError(f"{name}={value} has to be two whole numbers above 0, such as [3,3]")
        if self.shifts not in SHIFTS:
            raise ConfigError(f"shifts={self.shifts} is unknown; it is {', '.join(SHIFTS)}")
        if self.disturbance is not None and self.disturbance not in DISTURBANCES:
            raise ConfigError(f"disturbance={self.disturbance} is unknown; it is {' or '.join(DISTURBANCES)}")

    @property
    def recipe(self) -> Crystal:
        """The published recipe of the crystal, as changed by the settings."""
        if self.crystal is None:
            raise ConfigError("crystal is needed; give one such as crystal=BG, or geometries=FILE")
        published = CRYSTALS[self.crystal]
        changes: dict[str, Any] = {
            name: value
            for name in ("height", "gap", "disturbance", "amplitude")
            if (value := getattr(self, name)) is not None
        }
        if self.supercell is not None:
            changes["supercell"] = tuple(self.supercell)
        return replace(published, **changes)

    @cached_property
    def twisted(self) -> list[Twist]:
        """The twists of the database; empty for one without twisted cells."""
        published = self.twists == "published"
        if published and not self.recipe.twists:
            raise ConfigError(f"twists=published: there are no twisted structures of {self.recipe.title}")
        pairs = self.recipe.twists if published else self.twists or []
        if not isinstance(pairs, Sequence) or not all(_is_pair(pair) for pair in pairs):
            raise ConfigError(
                f"twists={self.twists} is not understood; give published or pairs such as [[2,1]]"
            )
        twists = [Twist(*pair) for pair in pairs]
        for angle in self.angles:
            atoms = self.recipe.layer.atoms_per_cell
            twists.append(nearest_twist(angle, self.angle_tolerance, self.most_atoms, atoms))
        return twists

    @property
    def spin(self) -> bool:
        """Whether spin-orbit coupling is on."""
        if self.spin_orbit is not None:
            return self.spin_orbit
        return self.crystal is not None and CRYSTALS[self.crystal].spin_orbit

    def in_use(self) -> dict[str, Any]:
        """All settings that determine the numbers, so without `data_path`, which depends on the machine."""
        return {name: value for name, value in asdict(self).items() if name != "data_path"}


def resume_key(settings: CrystalSettings, inputs: dict[str, str]) -> dict[str, Any]:
    """The settings and inputs that must be equal for a database to be continued; ``inputs``: name -> input file."""
    digest = hashlib.sha256()
    for name, text in inputs.items():
        digest.update(f"{name}\0{text}\0".encode())
    return {**settings.in_use(), "inputs (sha256)": digest.hexdigest()}


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, Sequence) and len(pair) == 2 and all(type(number) is int for number in pair)


def openmx_settings(settings: CrystalSettings) -> OpenmxSettings:
    """The settings of OpenMX, with spin-orbit coupling as the crystal needs it."""
    values = {entry.name: getattr(settings, entry.name) for entry in fields(OpenmxSettings)}
    return OpenmxSettings(**{**values, "spin_orbit": settings.spin})
