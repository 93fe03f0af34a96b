"""The range of a network's training: elements, sizes and distances that it has seen, and what lies outside of them.

A distance between atoms of two elements is in the range if the training had one within `BIN` of it. Thermal motion
fills the shells of bonded atoms, second neighbours and so on, and leaves gaps between them: a stretched bond that is
shorter than a second neighbour lies in a gap. From `REACH` on all distances count as seen, and an atom that far from
all others is told by the distance to its nearest neighbour.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from tracegrad.elements import NUMBERS, SYMBOLS
from tracegrad.errors import CheckpointError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.reduction import is_on_site

BIN, REACH = 0.05, 4.0  # angstrom
_BINS = round(REACH / BIN)


class OutsideTrainingWarning(UserWarning):
    """A structure that lies outside of what a network was trained on."""


@dataclass(frozen=True)
class TrainedRange:
    """What a network has seen in its training.

    Args:
        atoms: largest number of atoms of a structure.
        nearest: largest distance (angstrom) from an atom to its nearest neighbour, by atomic number; 0: it had none.
        distances: by two atomic numbers, ascending, the intervals of the distances below `REACH` (angstrom).
    """

    atoms: int
    nearest: Mapping[int, float]
    distances: Mapping[tuple[int, int], tuple[tuple[float, float], ...]]

    def outside(
        self,
        numbers: Int[np.ndarray, " atoms"],
        edge_index: Int[np.ndarray, "2 edges"],
        lengths: Float[np.ndarray, " edges"],
        *,
        sizes: bool,
    ) -> list[str]:
        """What of a structure lies outside, one phrase each; atoms are counted from 1.

        Args:
            numbers: atomic numbers.
            edge_index: both atoms of each pair, counted from 0; every pair in both directions, without on-site ones.
            lengths: their distances, angstrom.
            sizes: whether a larger number of atoms is outside; not for crystals, whose cells may be repeated.
        """
        lines = []
        new = sorted(set(numbers.tolist()) - self.nearest.keys())
        if new:
            lines.append(f"no training structure has {', '.join(SYMBOLS[z] for z in new)}")
        if sizes and len(numbers) > self.atoms:
            lines.append(f"{len(numbers)} atoms; the largest training structure has {self.atoms}")
        keys, groups = np.unique(np.sort(numbers[edge_index], axis=0), axis=1, return_inverse=True)
        for k, (a, b) in enumerate(keys.T.tolist()):
            if a not in new and b not in new:
                chosen = np.flatnonzero((groups.reshape(-1) == k) & (lengths < REACH))
                lines += self._of_pair(a, b, edge_index[:, chosen], lengths[chosen])
        return lines + self._isolated(numbers, edge_index, lengths)

    def _of_pair(
        self, a: int, b: int, pairs: Int[np.ndarray, "2 pairs"], lengths: Float[np.ndarray, " pairs"]
    ) -> list[str]:
        name = f"{SYMBOLS[a]}-{SYMBOLS[b]}"
        if not len(lengths):
            return []
        known = self.distances.get((a, b))
        if not known:
            return [
                f"{name} at {lengths.min():.2f} angstrom; in training no such pair was closer than {REACH:g}"
            ]
        first, last = np.array(known).T
        beyond = np.maximum(first[:, None] - lengths, lengths - last[:, None]).min(
            0
        )  # to the nearest interval
        far = int(np.count_nonzero(beyond > BIN)) // 2
        if not far:
            return []
        worst = int(beyond.argmax())
        i, j = sorted((pairs[:, worst] + 1).tolist())
        others = f" and {far - 1} more" if far > 1 else ""
        seen = ", ".join(f"{one:.2f} to {other:.2f}" for one, other in known)
        return [f"{name} at {lengths[worst]:.2f} angstrom (atoms {i} and {j}{others}); in training {seen}"]

    def _isolated(
        self,
        numbers: Int[np.ndarray, " atoms"],
        edge_index: Int[np.ndarray, "2 edges"],
        lengths: Float[np.ndarray, " edges"],
    ) -> list[str]:
        nearest = np.full(len(numbers), np.inf)
        np.minimum.at(nearest, edge_index[0], lengths)
        limits = np.array([self.nearest.get(z, np.inf) for z in numbers.tolist()])
        # Closer ones have been compared with the distances.
        alone = np.flatnonzero((nearest >= REACH) & (nearest > limits + BIN) & (len(numbers) > 1))
        return [
            f"atom {i + 1} ({SYMBOLS[numbers[i]]}) has no neighbour within {REACH:g} angstrom; in training the "
            f"nearest one was at most {limits[i]:.2f} away"
            for i in alone[:1].tolist()
        ]

    def plain(self) -> dict[str, Any]:
        """The range as plain data, with symbols of elements: for checkpoints and JSON."""
        return {
            "atoms": self.atoms,
            "nearest": {SYMBOLS[z]: round(value, 3) for z, value in self.nearest.items()},
            "distances": {
                f"{SYMBOLS[a]}-{SYMBOLS[b]}": [[round(end, 3) for end in interval] for interval in intervals]
                for (a, b), intervals in self.distances.items()
            },
        }

    @classmethod
    def read(cls, content: Any, where: str) -> "TrainedRange":
        """The range that `plain` has returned.

        Raises:
            CheckpointError: the content is something else; ``where`` names its file.
        """
        try:
            pairs = {
                tuple(NUMBERS[symbol] for symbol in name.split("-")): tuple(
                    (float(first), float(last)) for first, last in intervals
                )
                for name, intervals in content["distances"].items()
            }
            nearest = {NUMBERS[symbol]: float(value) for symbol, value in content["nearest"].items()}
            if not all(len(key) == 2 for key in pairs):
                raise ValueError("distances belong to two elements")
            return cls(int(content["atoms"]), nearest, pairs)  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(
                f"{where}: the range of the training is damaged ({error!r}); get the file again"
            ) from error


class RangeRecorder:
    """Collects the range of the batches of a training.

    Everything is one tensor whose elements only grow, so that ranks combine theirs by the maximum; nothing waits for
    the device.

    Args:
        basis: orbital basis; its elements can be met.
    """

    def __init__(self, basis: OrbitalBasis):
        self.elements = torch.tensor(sorted(basis.elements))
        count = len(self.elements)
        # Whether each pair of elements had a distance in each bin; largest distance to the nearest neighbour of each
        # element, -1: not met; largest number of atoms.
        self.record = torch.zeros(count * count * _BINS + count + 1)
        self.record[-count - 1 : -1] = -1

    @torch.no_grad()
    def add(self, graph) -> None:
        """Take account of a batch of graphs (`tracegrad.hamiltonian.graph`)."""
        self.record, self.elements = (t.to(graph.numbers.device) for t in (self.record, self.elements))
        count = len(self.elements)
        kinds = torch.searchsorted(self.elements, graph.numbers)
        dst, src = graph.edge_index
        vectors = graph.vectors if "vectors" in graph else graph.positions[src] - graph.positions[dst]
        lengths = vectors.double().norm(dim=1).masked_fill(is_on_site(graph, "edge"), torch.inf)
        first, second = torch.minimum(kinds[dst], kinds[src]), torch.maximum(kinds[dst], kinds[src])
        bins = (lengths / BIN).clamp(max=_BINS).long()
        places = torch.where(bins < _BINS, (first * count + second) * _BINS + bins, len(self.record) - 1)
        self.record.scatter_reduce_(0, places, torch.ones_like(lengths, dtype=self.record.dtype), "amax")
        nearest = torch.full_like(graph.numbers, torch.inf, dtype=self.record.dtype)
        nearest.scatter_reduce_(0, dst, lengths.to(nearest.dtype), "amin")
        nearest = nearest.masked_fill(nearest.isinf(), 0.0)
        self.record.scatter_reduce_(0, count * count * _BINS + kinds, nearest, "amax")
        atoms = self.record.new_zeros(graph.num_graphs)
        atoms.index_add_(0, graph.batch, torch.ones_like(nearest))
        self.record[-1] = torch.maximum(self.record[-1], atoms.max())

    def combine(self) -> None:
        """Take account of the batches of all ranks; all have to call it."""
        torch.distributed.all_reduce(self.record, torch.distributed.ReduceOp.MAX)

    def restore(self, known: TrainedRange) -> None:
        """Take account of what was recorded before, by a training that goes on."""
        elements, record = self.elements.tolist(), self.record.cpu()
        count = len(elements)
        for (a, b), intervals in known.distances.items():
            start = (elements.index(a) * count + elements.index(b)) * _BINS
            for first, last in intervals:
                record[start + round(first / BIN) : start + round(last / BIN)] = 1
        for z, value in known.nearest.items():
            place = count * count * _BINS + elements.index(z)
            record[place] = record[place].clamp(min=value)
        record[-1] = record[-1].clamp(min=known.atoms)
        self.record = record

    def result(self) -> TrainedRange | None:
        """The range of the batches until now; None: there was none."""
        record, elements = self.record.cpu().numpy(), self.elements.tolist()
        count = len(elements)
        nearest = record[-count - 1 : -1]
        if not record[-1]:
            return None
        seen = record[: count * count * _BINS].reshape(count, count, _BINS) > 0
        distances = {
            (a, b): _intervals(seen[i, j])
            for i, a in enumerate(elements)
            for j, b in enumerate(elements)
            if seen[i, j].any()
        }
        met = {z: float(value) for z, value in zip(elements, nearest, strict=True) if value >= 0}
        return TrainedRange(int(record[-1]), met, distances)


def _intervals(seen: Bool[np.ndarray, " bins"]) -> tuple[tuple[float, float], ...]:
    """Intervals (angstrom) of neighbouring bins that were met."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], seen.astype(np.int8), [0]])))
    return tuple((float(first * BIN), float(last * BIN)) for first, last in edges.reshape(-1, 2))
