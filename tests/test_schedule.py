import pickle

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from tracegrad.errors import ConfigError
from tracegrad.schedule import WarmupLinear


def rate(step: int, peak: float, final: float, warmup: int, total: int) -> float:
    """The learning rate, written out."""
    if step < warmup:
        return peak * step / warmup
    if step >= total:
        return final
    return peak + (final - peak) * (step - warmup) / (total - warmup)


@pytest.mark.parametrize(
    ("peak", "final", "warmup", "total"),
    [
        (5e-4, 1e-7, 1000, 300_000),
        (1e-3, 1e-5, 3, 10),
        (1e-3, 1e-3, 2, 4),
        (1.0, 0.0, 0, 7),
        (2.0, 0.5, 1, 2),
    ],
)
def test_equals_the_formula(peak, final, warmup, total):
    schedule = WarmupLinear(peak, final, warmup, total)
    steps = {
        0,
        1,
        warmup - 1,
        warmup,
        warmup + 1,
        (warmup + total) // 2,
        total - 1,
        total,
        total + 1,
        10 * total,
    }
    for step in sorted(step for step in steps if step >= 0):
        expected = rate(step, peak, final, warmup, total)
        assert peak * schedule(step) == pytest.approx(expected, rel=1e-12, abs=1e-18)


def test_boundaries_are_exact():
    schedule = WarmupLinear(1e-3, 1e-5, 4, 20)
    assert schedule(0) == 0
    assert schedule(4) == 1
    assert schedule(20) == schedule(21) == schedule(10**9) == 1e-5 / 1e-3
    assert WarmupLinear(1e-3, 1e-5, 0, 20)(0) == 1
    rates = [schedule(step) for step in range(30)]
    assert rates[:5] == sorted(rates[:5])
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_drives_an_optimizer():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=2e-3)
    scheduler = LambdaLR(optimizer, WarmupLinear(2e-3, 1e-4, 3, 8))
    for step in range(12):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rate(step, 2e-3, 1e-4, 3, 8))
        optimizer.step()
        scheduler.step()
    assert pickle.loads(pickle.dumps(scheduler.state_dict()))["last_epoch"] == 12


@pytest.mark.parametrize(("warmup", "total"), [(10, 10), (11, 10), (-1, 10), (0, 0), (0, -5)])
def test_bad_steps(warmup, total):
    with pytest.raises(
        ConfigError, match=rf"warmup_steps is {warmup} and optim.schedule.total_steps is {total}"
    ):
        WarmupLinear(1e-3, 1e-5, warmup, total)
