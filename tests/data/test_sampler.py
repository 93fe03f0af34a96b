from itertools import chain

import numpy as np
import pytest

from tracegrad.data.sampler import EpochSampler


def shares(size: int, world: int, *, shuffle: bool, epoch: int = 0, seed: int = 0) -> list[list[int]]:
    """What each rank gets."""
    samplers = [
        EpochSampler(size, shuffle=shuffle, seed=seed, rank=rank, world=world) for rank in range(world)
    ]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    found = [list(sampler) for sampler in samplers]
    assert [len(sampler) for sampler in samplers] == [len(share) for share in found]
    return found


@pytest.mark.parametrize(("size", "world"), [(10, 1), (10, 3), (12, 4), (5, 4), (3, 5), (1, 1)])
def test_evaluation_gives_every_sample_once(size, world):
    for epoch in (0, 3):
        found = shares(size, world, shuffle=False, epoch=epoch)
        assert sorted(chain(*found)) == list(range(size))
        assert all(share == sorted(share) for share in found)
        assert max(map(len, found)) - min(map(len, found)) <= 1
    assert list(EpochSampler(size, shuffle=False)) == list(range(size))


@pytest.mark.parametrize(("size", "world"), [(10, 1), (10, 3), (12, 4), (103, 8)])
def test_training_gives_every_rank_as_many_and_no_sample_twice(size, world):
    left_out = []
    for epoch in range(6):
        found = shares(size, world, shuffle=True, epoch=epoch)
        assert {len(share) for share in found} == {size // world}
        together = list(chain(*found))
        assert len(set(together)) == len(together)
        left_out.append(frozenset(range(size)) - frozenset(together))
        assert len(left_out[-1]) == size % world
    if size % world:
        assert len(set(left_out)) > 1


def test_the_order_is_a_function_of_seed_and_epoch():
    def order(seed: int, epoch: int) -> tuple[int, ...]:
        (share,) = shares(50, 1, shuffle=True, seed=seed, epoch=epoch)
        return tuple(share)

    orders = {(seed, epoch): order(seed, epoch) for seed in (0, 1, 2) for epoch in (0, 1, 2)}
    assert len(set(orders.values())) == 9
    np.random.seed(7)  # noqa: NPY002
    assert {key: order(*key) for key in reversed(orders)} == orders

    sampler = EpochSampler(50, shuffle=True, seed=1)
    for epoch in (2, 0, 1, 1, 2):  # where it has been before does not matter
        sampler.set_epoch(epoch)
        assert tuple(sampler) == orders[1, epoch] == tuple(sampler)


def test_ranks_share_one_order():
    (alone,) = shares(50, 1, shuffle=True, epoch=4, seed=3)
    found = shares(50, 3, shuffle=True, epoch=4, seed=3)
    assert [index for step in zip(*found, strict=True) for index in step] == alone[:48]


def test_places_are_uniform():
    counts = np.zeros((8, 8))
    sampler = EpochSampler(8, shuffle=True)
    for epoch in range(1600):
        sampler.set_epoch(epoch)
        for place, index in enumerate(sampler):
            counts[place, index] += 1
    assert np.abs(counts / 200 - 1).max() < 0.35  # five standard deviations
