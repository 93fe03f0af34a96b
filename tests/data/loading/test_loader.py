"""Resuming a loader within an epoch."""

import numpy as np
import pytest
from torch.utils.data import Dataset

from tracegrad.data.loading.loader import ResumableLoader
from tracegrad.data.loading.sampler import TrainingBatches


class Numbers(Dataset[int]):
    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> int:
        return index


def loader(workers: int = 0) -> ResumableLoader:
    batches = TrainingBatches(np.ones(20), 3)
    return ResumableLoader(Numbers(), batch_sampler=batches, num_workers=workers, collate_fn=list)


@pytest.mark.parametrize(("workers", "done"), [(0, 0), (0, 1), (0, 7), (1, 0), (1, 4)])
def test_a_loader_resumes_after_any_batch_of_any_epoch(workers, done):
    first = loader(workers)
    assert len(first) == 7
    for epoch in (0, 1):
        first.batches.set_epoch(epoch)
        whole = list(first)
    iterator = iter(first)
    head = [next(iterator) for _ in range(done)]
    state = first.state_dict() if done else {"epoch": 1, "done": 0}
    assert state == {"epoch": 1, "done": done}  # what workers have fetched ahead does not count
    other = loader(workers)
    other.load_state_dict(state)
    assert other.state_dict() == {"epoch": 1, "done": done % 7}
    assert list(other) == whole[done % 7 :]
    assert head == whole[:done]
    assert list(other) == whole


def test_the_state_between_two_steps_counts_finished_steps():
    own, seen = loader(), []
    own.between_steps = lambda: seen.append(own.state_dict()["done"])
    for _ in own:
        pass
    assert seen == [1, 2, 3, 4, 5, 6]  # not after the last batch: the epoch goes on with its validation
    seen.clear()
    own.load_state_dict({"epoch": 0, "done": 4})
    for _ in own:
        pass
    assert seen == [5, 6]
