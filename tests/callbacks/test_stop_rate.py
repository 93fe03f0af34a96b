import pytest
import torch

from callbacks.smoothing import SmoothedLoss
from callbacks.stop_rate import StopAtRate
from tests.callbacks.toy import BATCHES, train
from tracegrad.errors import ConfigError
from tracegrad.training.schedule import Plateau, SlipperySlope, WarmupLinear

SLOPE = SlipperySlope(0.08, start=2, interval=2, decay=0.5)
RATES = [0.08, 0.08, 0.08, 0.04, 0.04, 0.02, 0.02]


@pytest.mark.parametrize("minimum", [0.02, 0.03])
def test_ends_after_one_epoch_at_the_small_rate(tmp_path, capsys, minimum):
    toy = train(tmp_path, SLOPE, [1.0] * 20, [StopAtRate(minimum)])
    assert list(toy.rates.values()) == pytest.approx(RATES[:6])
    line = f"epoch 5: the learning rate 0.02 is not above callbacks.stop_rate.minimum={minimum}"
    assert capsys.readouterr().out == f"{line}; the training ends\n"
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert (last["epoch"], last["global_step"]) == (5, 6 * BATCHES)


def test_higher_rates_do_not_end_it(tmp_path, capsys):
    toy = train(tmp_path, SLOPE, [1.0] * 7, [StopAtRate(0.0199)])
    assert list(toy.rates.values()) == pytest.approx(RATES)
    assert capsys.readouterr().out == ""


def test_last_epoch_validates_in_any_case(tmp_path):
    train(tmp_path, SLOPE, [1.0] * 20, [StopAtRate(0.02)], check_val_every_n_epoch=4)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] == 5


def test_plateau(tmp_path):
    schedule = Plateau(0.08, patience=0, cooldown=0)
    toy = train(tmp_path, schedule, [1.0] * 20, [SmoothedLoss(), StopAtRate(0.02)])
    assert list(toy.rates.values()) == pytest.approx([0.08, 0.08, 0.04, 0.02])


def test_warmup_does_not_count(tmp_path):
    schedule = WarmupLinear(0.08, 0.0, 4 * BATCHES, 8 * BATCHES)
    toy = train(tmp_path, schedule, [1.0] * 20, [StopAtRate(0.03)])
    assert list(toy.rates.values()) == pytest.approx([0, 0.02, 0.04, 0.06, 0.08, 0.06, 0.04, 0.02])


@pytest.mark.parametrize("first", [1, 4, 5])
def test_resumed_training_ends_at_the_same_epoch(tmp_path, first):
    train(tmp_path, SLOPE, [1.0] * 20, [StopAtRate(0.02)], epochs=first)
    toy = train(tmp_path, SLOPE, [1.0] * 20, [StopAtRate(0.02)], resume=True)
    assert list(toy.rates) == list(range(first, 6))


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_resumed_inside_an_epoch(tmp_path):
    early = {"max_steps": BATCHES + 1, "val_check_interval": 1}
    train(tmp_path, SLOPE, [1.0] * 20, [StopAtRate(0.02)], **early)
    toy = train(tmp_path, SLOPE, [1.0] * 20, [StopAtRate(0.02)], resume=True)
    assert list(toy.rates) == [2, 3, 4, 5]


def test_ended_training_stays_ended(tmp_path):
    train(tmp_path, SLOPE, [1.0] * 20, [StopAtRate(0.02)])
    toy = train(tmp_path, SLOPE, [1.0] * 20, [StopAtRate(0.02)], resume=True)
    assert toy.rates == {}


def test_mistake():
    with pytest.raises(ConfigError, match=r"minimum is 0; a rate above 0 .*stop_rate=null"):
        StopAtRate(0)
