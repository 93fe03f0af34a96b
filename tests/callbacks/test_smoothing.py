import pytest
import torch

from callbacks.smoothing import SmoothedLoss
from tests.callbacks.toy import same, train
from tracegrad.errors import ConfigError
from tracegrad.training.schedule import Plateau, SlipperySlope

LOSSES = [1.0, 0.6, 3.0, 0.5, 0.4, 0.45, 0.44, 0.43, 0.42, 0.42, 0.42, 0.42, 0.42, 0.42]
PLATEAU = Plateau(0.01, factor=0.5, patience=1, cooldown=1, threshold=0.1)


class Watch(SmoothedLoss):
    """Records what a schedule or a checkpoint would see."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.seen = []

    def on_train_epoch_end(self, trainer, pl_module):
        super().on_train_epoch_end(trainer, pl_module)
        self.seen.append(trainer.callback_metrics[self.name].item())


def smoothed(losses, alpha):
    values = [losses[0]]
    for loss in losses[1:]:
        values.append(alpha * loss + (1 - alpha) * values[-1])
    return values


def expected_rates(losses, alpha, every=1):
    """Rates of the epochs when torch's scheduler is stepped by hand after every validation."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=PLATEAU.peak)
    scheduler = PLATEAU.scheduler(optimizer)["scheduler"]
    rates, validated = [], losses[every - 1 :: every]
    for value in smoothed(validated, alpha):
        rates += [optimizer.param_groups[0]["lr"]] * every
        scheduler.step(value)
    return rates


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0])
def test_equals_the_formula(tmp_path, alpha):
    watch = Watch(alpha)
    train(tmp_path, SlipperySlope(0.01), LOSSES, [watch])
    assert watch.seen == pytest.approx(smoothed(LOSSES, alpha), rel=1e-6)


def test_plateau_waits_for_the_smoothed_loss(tmp_path):
    rates = expected_rates(LOSSES, 0.5)
    assert len(set(rates)) >= 3
    assert rates != expected_rates(LOSSES, 1.0)
    toy = train(tmp_path, PLATEAU, LOSSES, [SmoothedLoss(0.5)])
    assert list(toy.rates.values()) == rates


def test_plateau_counts_validations(tmp_path):
    toy = train(tmp_path, PLATEAU, LOSSES, [SmoothedLoss(0.5)], check_val_every_n_epoch=2)
    assert list(toy.rates.values()) == expected_rates(LOSSES, 0.5, every=2)


@pytest.mark.parametrize("first", range(1, len(LOSSES) - 1))
def test_resumed_training_equals_an_uninterrupted_one(tmp_path, first):
    whole = train(tmp_path / "whole", PLATEAU, LOSSES, [SmoothedLoss(0.5)])
    before = train(tmp_path, PLATEAU, LOSSES, [SmoothedLoss(0.5)], epochs=first)
    after = train(tmp_path, PLATEAU, LOSSES, [SmoothedLoss(0.5)], resume=True)
    assert before.rates | after.rates == whole.rates
    assert min(after.rates) == first
    assert same(before.starts | after.starts, whole.starts)


def test_plateau_without_smoothing_says_what_is_missing(tmp_path):
    with pytest.raises(Exception, match="val/loss_smooth which is not available"):
        train(tmp_path, PLATEAU, LOSSES, [])


def test_mistakes(tmp_path):
    for alpha in (0, -0.1, 1.5):
        with pytest.raises(ConfigError, match=rf"alpha is {alpha}; choose"):
            SmoothedLoss(alpha)
    with pytest.raises(
        ConfigError, match="monitor is val/lss, which is not logged; choose one of val/loss_h"
    ):
        train(tmp_path, PLATEAU, LOSSES, [SmoothedLoss(monitor="val/lss")])
