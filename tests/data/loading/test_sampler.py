from itertools import chain

import numpy as np
import pytest

from tracegrad.data.loading.sampler import EvaluationBatches, TrainingBatches, imbalance, shares


def costs(size: int, seed: int = 0) -> np.ndarray:
    """Squares of numbers of atoms like those in QH9."""
    return np.random.default_rng(seed).integers(3, 29, size).astype(np.float64) ** 2


def training(
    size: int, batch_size: int, world: int = 1, *, epoch: int = 0, seed: int = 0
) -> list[list[list[int]]]:
    """The share of each rank in each batch."""
    found = []
    for rank in range(world):
        batches = TrainingBatches(costs(size), batch_size, seed, rank, world)
        batches.set_epoch(epoch)
        found.append(list(batches))
        assert len(batches) == len(found[-1])
    return found


@pytest.mark.parametrize(("size", "batch_size"), [(10, 4), (97, 32), (33, 32), (5, 8), (64, 32), (1, 1)])
def test_an_epoch_has_every_sample_once_in_batches_of_about_one_size(size, batch_size):
    (found,) = training(size, batch_size)
    assert sorted(chain(*found)) == list(range(size))
    assert len(found) == -(-size // batch_size)
    sizes = [len(batch) for batch in found]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    assert TrainingBatches(costs(size), batch_size).smallest == min(sizes)


@pytest.mark.parametrize("world", [2, 3, 8])
def test_ranks_divide_the_same_batches(world):
    for epoch in (0, 5):
        (alone,) = training(100, 32, epoch=epoch)
        together = training(100, 32, world, epoch=epoch)
        for i, batch in enumerate(alone):
            parts = [rank[i] for rank in together]
            assert all(parts)
            assert sorted(chain(*parts)) == sorted(batch)


def test_the_batches_are_a_function_of_seed_and_epoch():
    def order(seed: int, epoch: int) -> tuple[int, ...]:
        (found,) = training(50, 8, seed=seed, epoch=epoch)
        return tuple(chain(*found))

    orders = {(seed, epoch): order(seed, epoch) for seed in (0, 1, 2) for epoch in (0, 1, 2)}
    assert len(set(orders.values())) == 9
    np.random.seed(7)  # noqa: NPY002
    assert {key: order(*key) for key in reversed(orders)} == orders
    batches = TrainingBatches(costs(50), 8, seed=1)
    for epoch in (2, 0, 1, 1, 2):  # where it has been before does not matter
        batches.set_epoch(epoch)
        assert tuple(chain(*batches)) == orders[1, epoch] == tuple(chain(*batches))


def test_an_epoch_resumes_where_it_stopped_and_the_next_one_is_complete():
    batches = TrainingBatches(costs(20), 3)
    whole = list(batches)
    for start in range(len(whole) + 1):
        batches.start = start
        assert len(batches) == len(whole)  # the trainer counts the batches of the epoch
        assert list(batches) == whole[start:]
        assert list(batches) == whole


@pytest.mark.parametrize(("size", "world"), [(10, 1), (10, 3), (12, 4), (5, 4), (5, 5)])
def test_evaluation_gives_every_sample_once_and_in_order(size, world):
    found = []
    for rank in range(world):
        batches = EvaluationBatches(costs(size), 2, rank, world)
        parts = list(batches)
        assert len(parts) == len(batches)
        assert all(len(part) == 2 for part in parts[:-1])
        own = list(chain(*parts))
        assert own == sorted(own) != []
        found += own
    assert sorted(found) == list(range(size))


def test_shares_are_those_of_the_literal_rule():
    """The most expensive remaining sample goes to the rank with the smallest sum; at most 4/3 of the optimum."""
    values = costs(40, seed=3)
    sums, members = [0.0] * 3, [[], [], []]
    for position in sorted(range(40), key=lambda i: (-values[i], i)):
        rank = min(range(3), key=lambda r: (sums[r], len(members[r]), r))
        sums[rank] += values[position]
        members[rank].append(position)
    found = shares(values, 3)
    assert [part.tolist() for part in found] == [sorted(part) for part in members]
    assert imbalance(values, found) == pytest.approx(max(sums) / np.mean(sums), rel=1e-14)
    assert max(sums) <= 4 / 3 * max(values.sum() / 3, values.max()) + 1e-9


def test_balance_by_cost_beats_balance_by_number():
    """32 molecules of 3 to 28 atoms on 8 ranks: four of them each, against equal sums of pairs."""
    batches = TrainingBatches(costs(3200), 32, world=8)
    by_number = max(
        imbalance(batches.costs[batch], [np.arange(rank, len(batch), 8) for rank in range(8)])
        for batch in batches.global_batches()
    )
    assert batches.imbalance() < 1.25
    assert by_number > 1.7
    assert TrainingBatches(costs(3200), 32).imbalance() == 1
