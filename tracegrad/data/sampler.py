"""The order of samples as a pure function of (seed, epoch, rank, world)."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class EpochSampler(Sampler[int]):
    """Positions of a data set, shuffled anew each epoch or in order, shared out among ranks.

    In training every rank gets equally many samples (at most ``world - 1`` samples of an epoch are left out,
    others in each epoch); in evaluation every sample is given exactly once, without padding.

    Args:
        size: number of samples.
        shuffle: training order; otherwise ascending positions.
        seed: of the shuffle; the epoch is mixed in.
        rank, world: this process among how many.
    """

    def __init__(self, size: int, *, shuffle: bool, seed: int = 0, rank: int = 0, world: int = 1):
        self.size, self.shuffle, self.seed = size, shuffle, seed
        self.rank, self.world = rank, world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        if self.shuffle:
            return self.size // self.world
        return len(range(self.rank, self.size, self.world))

    def __iter__(self) -> Iterator[int]:
        order = np.arange(self.size)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.size)
            order = order[: self.size // self.world * self.world]
        return iter(order[self.rank :: self.world].tolist())
