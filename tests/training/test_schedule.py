import pickle

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from tracegrad.errors import ConfigError
from tracegrad.training.schedule import Plateau, Schedule, SlipperySlope, WarmupLinear


def rate(step: int, peak: float, final: float, warmup: int, total: int) -> float:
    """The learning rate by its literal formula."""
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


def driven(schedule: Schedule, epochs: int) -> list[float]:
    """Learning rate of each epoch with the scheduler of the schedule."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=schedule.peak)
    scheduler = schedule.scheduler(optimizer)["scheduler"]
    rates = []
    for _ in range(epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(("start", "interval", "decay"), [(1400, 200, 0.5), (0, 1, 0.9), (3, 7, 0.1)])
def test_slope_equals_the_rule(start, interval, decay):
    """The number of drops is the number of whole intervals since ``start``, plus one."""
    rates = driven(SlipperySlope(3e-3, start, interval, decay), 2700)
    drops = [max(0, -(-(epoch - start) // interval)) for epoch in range(2700)]
    assert rates == pytest.approx([3e-3 * decay**number for number in drops])
    assert rates[start] == 3e-3
    assert rates[start + 1] == rates[start + interval] == 3e-3 * decay


def test_slope_keeps_a_rate_changed_from_outside():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=1.0)
    scheduler = SlipperySlope(1.0, start=3, interval=2).scheduler(optimizer)["scheduler"]
    rates = []
    for epoch in range(8):
        if epoch == 2:
            optimizer.param_groups[0]["lr"] *= 0.8
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == [1.0, 1.0, 0.8, 0.8, 0.4, 0.4, 0.2, 0.2]


def test_plateau_has_the_settings_of_torch():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=1.0)
    config = Plateau(1.0, factor=0.5, patience=2, cooldown=1, threshold=0.1).scheduler(optimizer)
    assert (config["interval"], config["monitor"], config["name"]) == ("epoch", "val/loss_smooth", "lr")
    rates = []
    for loss in (1.0, 0.95, 0.92, 0.905, 0.905, 0.905, 0.905, 0.905, 0.8, 0.8):
        config["scheduler"].step(loss)
        rates.append(optimizer.param_groups[0]["lr"])
    # Progress needs less than 0.9: the third loss without it brings the drop, and one more does not count.
    assert rates == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25]


@pytest.mark.parametrize("schedule", [WarmupLinear(1e-3, 1e-5, 2, 9), SlipperySlope(1e-3), Plateau(1e-3)])
def test_state_is_plain_data(schedule, tmp_path):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=schedule.peak)
    torch.save(schedule.scheduler(optimizer)["scheduler"].state_dict(), tmp_path / "state")
    assert torch.load(tmp_path / "state", weights_only=True)["last_epoch"] == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peak": 0.0}, "peak is 0.0; a learning rate above 0"),
        ({"start": -1}, "start is -1 and optim.schedule.interval is 200"),
        ({"interval": 0}, "start is 1400 and optim.schedule.interval is 0"),
        ({"decay": 1.0}, "decay is 1.0; choose"),
    ],
)
def test_bad_slope(settings, message):
    with pytest.raises(ConfigError, match=message):
        SlipperySlope(**{"peak": 1e-3} | settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peak": -1.0}, "peak is -1.0; a learning rate above 0"),
        ({"factor": 1.0}, "factor is 1.0 and optim.schedule.threshold is 0.05"),
        ({"threshold": 1.0}, "factor is 0.5 and optim.schedule.threshold is 1.0"),
        ({"patience": -1}, "patience is -1 and optim.schedule.cooldown is 40"),
        ({"cooldown": -1}, "patience is 120 and optim.schedule.cooldown is -1"),
    ],
)
def test_bad_plateau(settings, message):
    with pytest.raises(ConfigError, match=message):
        Plateau(**{"peak": 1e-3} | settings)
