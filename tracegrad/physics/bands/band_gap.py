"""The gap between the occupied and the empty bands at some k-points."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class BandGap:
    """Occupation and gap at some k-points, eV; bands are counted from 1, points from 0.

    Args:
        metal: bands cross the Fermi level or, for a known number of occupied bands, these overlap with empty ones.
        bands: first and last of the bands that cross or overlap; for an insulator the highest occupied and the lowest
            empty band.
        gap: lowest empty minus highest occupied energy; 0 for a metal.
        direct_gap: the smallest difference at one point; for a metal this and all following attributes are None.
        valence, conduction: highest occupied and lowest empty energy, on the energy scale of the files.
        valence_point, conduction_point, direct_point: the points of these energies and of the direct gap.
        step: on a path, largest change of the two band edges to their neighbouring points: the resolution of the gap.
    """

    metal: bool
    bands: tuple[int, int]
    gap: float = 0.0
    direct_gap: float | None = None
    valence: float | None = None
    conduction: float | None = None
    valence_point: int | None = None
    conduction_point: int | None = None
    direct_point: int | None = None
    step: float | None = None


def gap_between(
    valence: Float[np.ndarray, " k"], conduction: Float[np.ndarray, " k"], occupied: int
) -> BandGap:
    """The gap between two bands, of which the lower one, with the number ``occupied``, is the highest occupied one.

    Args:
        valence, conduction: their energies, eV.
    """
    highest, lowest = int(valence.argmax()), int(conduction.argmin())
    gap = float(conduction[lowest] - valence[highest])
    if gap <= 0:
        return BandGap(True, (occupied, occupied + 1))
    direct = conduction - valence
    return BandGap(
        metal=False,
        bands=(occupied, occupied + 1),
        gap=gap,
        direct_gap=float(direct.min()),
        valence=float(valence[highest]),
        conduction=float(conduction[lowest]),
        valence_point=highest,
        conduction_point=lowest,
        direct_point=int(direct.argmin()),
    )
