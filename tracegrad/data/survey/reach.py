"""The largest matrix elements of H by distance, over many structures."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int64

BIN = 0.25  # angstrom


@dataclass
class Reach:
    """Largest |H| of the pairs of each two elements in bins of their distance, on-site blocks left out.

    Args:
        largest: for two atomic numbers (ascending) the largest |H| in each bin, in the unit of H; 0 without a pair.
        longest: distance of the farthest pair, angstrom.
    """

    largest: dict[tuple[int, int], Float[np.ndarray, " bins"]] = field(default_factory=dict)
    longest: float = 0.0

    def add(
        self,
        pairs: Int64[np.ndarray, "pairs 2"],
        distances: Float[np.ndarray, " pairs"],
        values: Float[np.ndarray, " pairs"],
    ) -> None:
        """Take account of further pairs: their atomic numbers, distances (angstrom) and largest |H|."""
        if not len(pairs):
            return
        self.longest = max(self.longest, float(distances.max()))
        bins = (distances / BIN).astype(np.int64)
        ordered = np.sort(pairs, axis=1)
        for elements in np.unique(ordered, axis=0):
            chosen = (ordered == elements).all(1)
            key = (int(elements[0]), int(elements[1]))
            former = self.largest.get(key, np.zeros(0))
            found = np.zeros(max(len(former), int(bins[chosen].max()) + 1))
            found[: len(former)] = former
            np.maximum.at(found, bins[chosen], values[chosen])
            self.largest[key] = found

    def distance_below(self, limit: float) -> float:
        """Distance (angstrom) from which on every |H| that was seen is below a limit; resolved to `BIN`."""
        last = [np.flatnonzero(values >= limit) for values in self.largest.values()]
        return BIN * max((int(bins[-1]) + 1 for bins in last if len(bins)), default=0)
