"""Settings of the structures of a database of crystals."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from tracegrad.errors import ConfigError
from tracegrad.physics.crystals.layers import CRYSTALS, Crystal
from tracegrad.physics.crystals.twist import Twist, nearest_twist

SHIFTS = ("grid", "random", "none")
DISTURBANCES = ("gaussian", "uniform")


@dataclass
class CrystalSettings:
    """Everything that determines the structures of a database, besides geometries from files.

    Lengths are in angstrom, angles in degrees. A setting that is None has the value of the published recipe of
    `crystal`, see `layers.CRYSTALS`. With `twists` or `angles` the structures are twisted cells; there is one ideal
    cell for each twist, unless `structures` (copies) and `amplitude` (displacements) are set. `spin_orbit` is
    non-collinear spin with spin-orbit coupling.
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
    spin_orbit: bool | None = None

    def __post_init__(self) -> None:
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


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, Sequence) and len(pair) == 2 and all(type(number) is int for number in pair)
