"""Choice of the batches that a dry run tries, so that a few of them represent all."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int64

from tracegrad.data.loading.sampler import TrainingBatches, shares

TIMED = 12  # batches of an epoch that are timed
EPOCHS = 100  # epochs, at most, among whose batches the most expensive one is searched


def most_expensive_batch(batches: TrainingBatches, epochs: int) -> list[int]:
    """Samples of the most expensive batch of the first epochs (`EPOCHS` at most), see `most_expensive_share`."""

    def all_batches() -> Iterator[np.ndarray]:
        for epoch in range(min(epochs, EPOCHS)):
            batches.set_epoch(epoch)
            yield from batches.global_batches()

    most_expensive = max(all_batches(), key=lambda batch: batches.costs[batch].sum())
    return most_expensive_share(batches, most_expensive)


def sample_batches(batches: TrainingBatches) -> tuple[list[list[int]], float]:
    """Choose batches of the first epoch whose costs are evenly spread.

    Returns:
        The batches, in random order, and the mean cost of all batches of the epoch.
    """
    batches.set_epoch(0)
    first = [most_expensive_share(batches, batch) for batch in batches.global_batches()]
    chosen = spread_batches(first, batches.costs, TIMED)
    # In random order, because the dry run may end before all of them are timed.
    order = np.random.default_rng(0).permutation(len(chosen))
    return [chosen[i] for i in order], float(np.mean(costs_of(batches.costs, first)))


def spread_batches(
    batches: Sequence[list[int]], costs: Float[np.ndarray, " samples"], count: int
) -> list[list[int]]:
    """``count`` of the batches, evenly spread over their costs, the most expensive one first."""
    order = np.argsort(costs_of(costs, batches), kind="stable")[::-1]
    chosen = np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)
    return [batches[i] for i in order[chosen]]


def most_expensive_share(batches: TrainingBatches, batch: Int64[np.ndarray, " batch"]) -> list[int]:
    """Samples of a batch that the rank with the most work gets."""
    parts = shares(batches.costs[batch], batches.world)
    return batch[max(parts, key=lambda part: batches.costs[batch[part]].sum())].tolist()


def costs_of(costs: Float[np.ndarray, " samples"], batches: Sequence[list[int]]) -> list[float]:
    """Cost of each batch: the sum of the costs of its samples."""
    return [float(costs[batch].sum()) for batch in batches]


def largest_share(costs: Float[np.ndarray, " samples"], world: int) -> float:
    """Cost of all samples of a data set for the rank with the most work, of ``world`` ranks."""
    return max(float(costs[part].sum()) for part in shares(costs, world))
