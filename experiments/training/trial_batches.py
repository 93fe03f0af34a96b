"""Which batches of a training are tried, so that few of them speak for all."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int64

from tracegrad.data.loading.sampler import TrainingBatches, shares

TIMED = 12  # batches of an epoch
EPOCHS = 100  # among whose batches the dearest is looked for


def dearest_batch(batches: TrainingBatches, epochs: int) -> list[int]:
    """The batch of the first epochs (`EPOCHS` at most) that costs most."""
    dearest, most = np.zeros(0, dtype=np.int64), -1.0
    for epoch in range(min(epochs, EPOCHS)):
        batches.set_epoch(epoch)
        for batch in batches.global_batches():
            cost = batches.costs[batch].sum()
            if cost > most:
                dearest, most = batch, cost
    return dearest_share(batches, dearest)


def sample_batches(batches: TrainingBatches) -> tuple[list[list[int]], float]:
    """Batches of the first epoch, from the cheapest to the dearest but in random order, and the mean cost of all."""
    batches.set_epoch(0)
    first = [dearest_share(batches, batch) for batch in batches.global_batches()]
    chosen = spread_batches(first, batches.costs, TIMED)
    # Random, because the time may be up before all are tried.
    order = np.random.default_rng(0).permutation(len(chosen))
    return [chosen[i] for i in order], float(np.mean(costs_of(batches.costs, first)))


def spread_batches(
    batches: Sequence[list[int]], costs: Float[np.ndarray, " samples"], count: int
) -> list[list[int]]:
    """Some of the batches, evenly spread over their costs, the dearest first."""
    order = np.argsort(costs_of(costs, batches), kind="stable")[::-1]
    chosen = np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)
    return [batches[i] for i in order[chosen]]


def dearest_share(batches: TrainingBatches, batch: Int64[np.ndarray, " batch"]) -> list[int]:
    """What the rank with the most to do gets of a batch."""
    parts = shares(batches.costs[batch], batches.world)
    return batch[max(parts, key=lambda part: batches.costs[batch[part]].sum())].tolist()


def costs_of(costs: Float[np.ndarray, " samples"], batches: Sequence[list[int]]) -> list[float]:
    """What each batch costs."""
    return [float(costs[batch].sum()) for batch in batches]


def largest_share(costs: Float[np.ndarray, " samples"], world: int) -> float:
    """The cost of a data set for the rank that has the most to do."""
    return max(float(costs[part].sum()) for part in shares(costs, world))
