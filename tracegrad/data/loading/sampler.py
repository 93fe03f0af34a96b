"""Batches as pure functions of seed and epoch, divided among ranks by the costs of the samples.

In training the batches of an epoch do not depend on the number of ranks, which share each batch: more devices change
only the speed. In evaluation every sample occurs exactly once, without padding.
"""

import heapq
from collections.abc import Iterator
from math import ceil

import numpy as np
from jaxtyping import Float, Int64
from torch.utils.data import Sampler


class _Batches(Sampler[list[int]]):
    """Base class of the samplers.

    Args:
        costs: cost of each sample, such as its number of pairs of atoms; ranks get shares of about equal cost.
        batch_size: number of samples of a batch.
        rank, world: number of this process, and of all processes.
    """

    def __init__(self, costs: Float[np.ndarray, " samples"], batch_size: int, rank: int = 0, world: int = 1):
        self.costs, self.batch_size = np.asarray(costs, dtype=np.float64), batch_size
        self.rank, self.world = rank, world


class TrainingBatches(_Batches):
    """The share of one rank in each batch of an epoch; an epoch has each sample once.

    The samples, in random order, are cut into ceil(samples / batch_size) batches whose sizes differ by at most one,
    so that there is no small last batch.

    Args:
        costs: cost of each sample.
        batch_size: largest number of samples of a batch, over all ranks.
        seed: seed of the order, together with the epoch.
        rank, world: number of this process, and of all processes.
    """

    def __init__(
        self,
        costs: Float[np.ndarray, " samples"],
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ):
        super().__init__(costs, batch_size, rank, world)
        self.seed = seed
        self.epoch = 0
        self.start = 0  # number of batches to skip, only in the next iteration

    @property
    def sampler(self) -> "TrainingBatches":
        """This object: Lightning calls `set_epoch` of the attribute ``sampler``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return ceil(len(self.costs) / self.batch_size)

    @property
    def smallest(self) -> int:
        """Number of samples of the smallest batch, over all ranks."""
        return len(self.costs) // len(self)

    def global_batches(self) -> list[Int64[np.ndarray, " batch"]]:
        """The batches of this epoch over all ranks."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.costs))
        return np.array_split(order, len(self))

    def imbalance(self) -> float:
        """Largest cost of a rank over the mean cost of the ranks, for the worst batch of this epoch."""
        return max(
            imbalance(self.costs[batch], shares(self.costs[batch], self.world))
            for batch in self.global_batches()
        )

    def __iter__(self) -> Iterator[list[int]]:
        start, self.start = self.start, 0
        for batch in self.global_batches()[start:]:
            yield batch[shares(self.costs[batch], self.world)[self.rank]].tolist()


class EvaluationBatches(_Batches):
    """Batches of the share of one rank in a data set, in ascending order."""

    def _share(self) -> Int64[np.ndarray, " share"]:
        return shares(self.costs, self.world)[self.rank]

    def __len__(self) -> int:
        return ceil(len(self._share()) / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        share = self._share().tolist()
        return (share[i : i + self.batch_size] for i in range(0, len(share), self.batch_size))


def shares(costs: Float[np.ndarray, " samples"], world: int) -> list[Int64[np.ndarray, " _"]]:
    """Positions of the samples of each rank, ascending, with about equal sums of costs.

    The most expensive remaining sample goes to the rank with the smallest sum so far (Graham 1969: the largest sum
    is at most 4/3 of the best possible one). If there are at least as many samples as ranks, every rank gets one.
    """
    if world == 1:
        return [np.arange(len(costs))]
    ranks = [
        (0.0, 0, rank) for rank in range(world)
    ]  # cost, samples, rank: of equal costs the rank with fewer samples comes first
    members: list[list[int]] = [[] for _ in range(world)]
    for position in np.argsort(-costs, kind="stable").tolist():
        cost, count, rank = ranks[0]
        heapq.heapreplace(ranks, (cost + float(costs[position]), count + 1, rank))
        members[rank].append(position)
    return [np.array(sorted(positions), dtype=np.int64) for positions in members]


def imbalance(costs: Float[np.ndarray, " samples"], parts: list[Int64[np.ndarray, " _"]]) -> float:
    """Largest sum of costs of a part over the mean of all parts."""
    sums = [costs[part].sum() for part in parts]
    return float(max(sums) / np.mean(sums))
