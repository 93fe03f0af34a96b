"""The Fermi level by counting electrons: the states of a k mesh are filled from below.

With a gap between the occupied and the empty bands the level is in its middle. In a metal the occupation of a state
with energy E is f((E - level) / width),

    gaussian       f(x) = erfc(x) / 2
    fermi-dirac    f(x) = 1 / (exp(x) + 1)

and the level is where the occupations add up to the number of electrons.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq
from scipy.special import erfc, expit

from tracegrad.errors import ConfigError
from tracegrad.physics.bands.band_gap import BandGap, gap_between

SMEARINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "gaussian": lambda x: erfc(x) / 2,
    "fermi-dirac": lambda x: expit(-x),
}
_FAR = 40.0  # widths beyond which occupations are 0 or 1
_WHOLE = 1e-6  # electrons; a number of filled bands this near to a whole one is whole


@dataclass(frozen=True, kw_only=True)
class FermiCount(BandGap):
    """Fermi level and gap of a k mesh, eV; a metal has bands that are partly filled.

    Args:
        level: middle of the gap, or the level of a metal.
        electrons: number of electrons of a cell.
    """

    level: float
    electrons: float


def count_fermi_level(
    energies: Float[np.ndarray, "k bands"],
    weights: Float[np.ndarray, " k"],
    electrons: float,
    *,
    spins: int,
    first: int = 0,
    smearing: str | None = "gaussian",
    width: float = 0.05,
    name: str = "structure",
) -> FermiCount:
    """Fermi level of a number of electrons.

    Args:
        energies: eV, ascending at each point; all bands, or those that may be partly filled.
        weights: of the points, sum 1.
        electrons: of a cell.
        spins: electrons that a state holds: 2 without spin, 1 with spin-orbit coupling.
        first: number of bands below those in ``energies``, all filled.
        smearing: "gaussian" or "fermi-dirac", for metals; None: a metal is an error.
        width: of the smearing, eV.
        name: of the structure, for messages.

    Raises:
        ConfigError: the smearing does not exist, the bands cannot hold the electrons, or a metal without smearing.
    """
    if smearing is not None and smearing not in SMEARINGS:
        raise ConfigError(
            f"smearing={smearing} is not one of {', '.join(SMEARINGS)} and null; give one of them"
        )
    if not 0 < width < np.inf:
        raise ConfigError(f"smearing_width={width} is not above 0; give a width in eV")
    count = energies.shape[1]
    filled = electrons / spins - first
    if not 0 < filled < count:
        raise ConfigError(
            f"{name}: {electrons:g} electrons do not fit {first + count} bands of {spins} each; correct electrons or "
            "valence"
        )
    occupied = round(filled)
    if abs(filled - occupied) < _WHOLE and 0 < occupied < count:
        found = gap_between(energies[:, occupied - 1], energies[:, occupied], first + occupied)
        if found.valence is not None and found.conduction is not None:
            middle = (found.valence + found.conduction) / 2
            return FermiCount(**vars(found), level=middle, electrons=electrons)
    if smearing is None:
        raise ConfigError(
            f"{name}: {_why_metal(energies, filled, electrons, first)}; set smearing=gaussian for a metal"
        )

    def surplus(level: float) -> float:
        share = SMEARINGS[smearing]((energies - level) / width)
        return float(weights @ share.sum(1)) - filled

    level = float(brentq(surplus, energies.min() - _FAR * width, energies.max() + _FAR * width, xtol=1e-10))
    below = (energies < level).sum(1)
    lowest, highest = first + int(below.min()) + 1, first + int(below.max())
    bands = (lowest, max(lowest, highest))
    return FermiCount(metal=True, bands=bands, level=level, electrons=electrons)


def _why_metal(energies: Float[np.ndarray, "k bands"], filled: float, electrons: float, first: int) -> str:
    occupied = round(filled)
    if abs(filled - occupied) >= _WHOLE:
        return f"{electrons:g} electrons fill band {first + int(filled) + 1} only in part, so it is a metal"
    overlap = float(energies[:, occupied - 1].max() - energies[:, occupied].min())
    return (
        f"with {electrons:g} electrons the bands {first + occupied} and {first + occupied + 1} overlap by "
        f"{overlap:.4f} eV, so it is a metal"
    )
