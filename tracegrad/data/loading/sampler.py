"""Batches as pure functions of (seed, epoch), shared out among ranks by what their samples cost.

In training the batches of an epoch are the same for any number of ranks, which divide each of them: adding devices
changes the speed and nothing else. In evaluation every sample is given exactly once, without padding.
"""

import heapq
from collections.abc import Iterator
from math import ceil

import numpy as np
from jaxtyping import Float, Int64
from torch.utils.data import Sampler


class _Batches(Sampler[list[int]]):
    """What training and evaluation share: costs and ranks.

    Args:
        costs: of each sample, such as its number of pairs of atoms; ranks get shares of about equal cost.
        batch_size: samples of a batch.
        rank, world: this process among how many.
    """

    def __init__(self, costs: Float[np.ndarray, " samples"], batch_size: int, rank: int = 0, world: int = 1):
        self.costs, self.batch_size = np.asarray(costs, dtype=np.float64), batch_size
        self.rank, self.world = rank, world


class TrainingBatches(_Batches):
    """The shares of one rank in the batches of an epoch, each sample of the data set once.

    The samples of an epoch, in random order, are cut into as many batches as ``batch_size`` asks for, whose sizes
    differ by one at most, so that there is no small rest.

    Args:
        costs: of each sample.
        batch_size: most samples of a batch, over all ranks.
        seed: of the order; the epoch is mixed in.
        rank, world: this process among how many.
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
        self.start = 0  # batches to leave out, in the next epoch that is iterated only

    @property
    def sampler(self) -> "TrainingBatches":
        """Where Lightning looks for `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return ceil(len(self.costs) / self.batch_size)

    @property
    def smallest(self) -> int:
        """Samples of the smallest batch, over all ranks."""
        return len(self.costs) // len(self)

    def whole(self) -> list[Int64[np.ndarray, " batch"]]:
        """The batches of this epoch over all ranks."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.costs))
        return np.array_split(order, len(self))

    def imbalance(self) -> float:
        """Largest cost of a rank over the mean of the ranks, in the worst batch of this epoch."""
        return max(
            imbalance(self.costs[batch], shares(self.costs[batch], self.world)) for batch in self.whole()
        )

    def __iter__(self) -> Iterator[list[int]]:
        start, self.start = self.start, 0
        for batch in self.whole()[start:]:
            yield batch[shares(self.costs[batch], self.world)[self.rank]].tolist()


class EvaluationBatches(_Batches):
    """The share of one rank in a data set, in ascending order."""

    def _own(self) -> Int64[np.ndarray, " share"]:
        return shares(self.costs, self.world)[self.rank]

    def __len__(self) -> int:
        return ceil(len(self._own()) / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        own = self._own().tolist()
        return (own[i : i + self.batch_size] for i in range(0, len(own), self.batch_size))


def shares(costs: Float[np.ndarray, " samples"], world: int) -> list[Int64[np.ndarray, " _"]]:
    """Positions for each rank, ascending, so that the sums of costs are about equal.

    The dearest sample that is left goes to the rank with the least so far (Graham 1969: at most 4/3 of the best
    possible largest sum). With at least as many samples as ranks no rank is left empty.
    """
    if world == 1:
        return [np.arange(len(costs))]
    ranks = [(0.0, 0, rank) for rank in range(world)]  # cost, samples, rank: the fewest samples break ties
    members: list[list[int]] = [[] for _ in range(world)]
    for position in np.argsort(-costs, kind="stable").tolist():
        cost, count, rank = ranks[0]
        heapq.heapreplace(ranks, (cost + float(costs[position]), count + 1, rank))
        members[rank].append(position)
    return [np.array(sorted(own), dtype=np.int64) for own in members]


def imbalance(costs: Float[np.ndarray, " samples"], parts: list[Int64[np.ndarray, " _"]]) -> float:
    """Largest sum of costs of a part over the mean of all parts."""
    sums = [costs[part].sum() for part in parts]
    return float(max(sums) / np.mean(sums))
