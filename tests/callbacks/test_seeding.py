"""Random numbers of a step do not depend on what was drawn before it."""

import random
from types import SimpleNamespace

import numpy as np
import torch

from callbacks.seeding import SeedSteps


def draws(seed: int, step: int, rank: int = 0, batch: int = 0) -> tuple[float, float, float]:
    trainer = SimpleNamespace(global_step=step, global_rank=rank)
    SeedSteps(seed).on_train_batch_start(trainer, None, None, batch)
    return float(torch.rand(())), random.random(), float(np.random.rand())  # noqa: NPY002


def test_numbers_are_a_function_of_seed_step_batch_and_rank():
    settings = [(0, 0), (1, 0), (0, 1), (0, 0, 1), (0, 0, 0, 1)]
    found = {setting: draws(*setting) for setting in settings}
    for numbers in zip(*found.values(), strict=True):
        assert len(set(numbers)) == len(settings)
    assert {setting: draws(*setting) for setting in reversed(settings)} == found


def test_dropout_after_an_interruption_is_that_of_an_uninterrupted_run():
    def masks(first: int) -> list[torch.Tensor]:
        found = []
        for step in range(first, 6):
            draws(3, step)
            found.append(torch.nn.functional.dropout(torch.ones(8, 8)))
        return found

    for one, other in zip(masks(0)[4:], masks(4), strict=True):
        assert torch.equal(one, other)
