import pytest
import torch

from callbacks.revert import RevertAndDecay
from callbacks.smoothing import SmoothedLoss
from tests.callbacks.toy import BATCHES, same, train
from tracegrad.errors import CheckpointError, ConfigError, TrainingError
from tracegrad.training.schedule import Plateau, SlipperySlope, WarmupLinear

FLAT = SlipperySlope(0.08, start=1000)
# Epoch 1 is the best; 2 to 4 are much worse, so that epoch 5 begins like epoch 2.
JUMP = [2.0, 1.0, 2.1, 3.0, 9.0, 1.5, 1.4, 1.3]


def revert(directory, **settings):
    return RevertAndDecay(directory, **{"patience": 3} | settings)


def test_returns_to_the_best_validation(tmp_path, capsys):
    callback = revert(tmp_path)
    toy = train(tmp_path, FLAT, JUMP, [callback])
    assert callback.reverts == 1
    assert same(toy.starts[5], toy.starts[2])
    assert not same(toy.starts[6], toy.starts[3])
    assert list(toy.rates.values()) == [0.08] * 5 + [0.08 * 0.8] * 3
    assert capsys.readouterr().out == (
        "epoch 5: val/loss_h was above 2 x 1, or not finite, in 3 validations in a row; "
        "back to the start of epoch 2, learning rate 0.08 -> 0.064\n"
    )


@pytest.mark.parametrize(
    "losses",
    [
        [1.0, 2.0, 2.0, 2.0, 2.0, 2.0],  # not above the ratio
        [1.0, 3.0, 3.0, 1.5, 3.0, 3.0, 1.9],  # never three in a row
        [float("nan")] * 6,  # nothing to return to
    ],
)
def test_stays(tmp_path, losses):
    callback = revert(tmp_path)
    toy = train(tmp_path, FLAT, losses, [callback])
    assert callback.reverts == 0
    assert set(toy.rates.values()) == {0.08}


def test_rate_falls_with_every_return_to_the_same_validation(tmp_path):
    losses = [1.0, *[5.0] * 6, 0.5, *[5.0] * 3, 0.6]
    toy = train(tmp_path, FLAT, losses, [revert(tmp_path)])
    assert same(toy.starts[4], toy.starts[1])
    assert same(toy.starts[7], toy.starts[1])
    assert same(toy.starts[11], toy.starts[8])  # a new best, at the rate that it had
    rates = [toy.rates[epoch] for epoch in (1, 4, 7, 8, 11)]
    assert rates == pytest.approx([0.08, 0.08 * 0.8, 0.08 * 0.64, 0.08 * 0.64, 0.08 * 0.8**3])


def test_slope_is_turned_back(tmp_path):
    """The best validation is one epoch before the drop of the rate, and again so after the return."""
    toy = train(tmp_path, SlipperySlope(0.08, start=2, interval=4), JUMP + [1.3] * 4, [revert(tmp_path)])
    assert list(toy.rates.values()) == pytest.approx(
        [0.08, 0.08, 0.08, 0.04, 0.04, 0.064, 0.032, 0.032, 0.032, 0.032, 0.016, 0.016]
    )


def test_plateau_cools_down_and_forgets_the_jump(tmp_path):
    smoothing = SmoothedLoss(0.5)
    schedule = Plateau(0.08, patience=1, cooldown=3, threshold=0.0)
    losses = JUMP[:5] + [2.0] * 6
    toy = train(tmp_path, schedule, losses, [smoothing, revert(tmp_path)])
    # 1.5 (2.0 and 1.0 smoothed) is the lowest; the drop in epoch 4 is undone, and 3 validations do not count.
    assert list(toy.rates.values()) == pytest.approx([0.08] * 4 + [0.04] + [0.064] * 5 + [0.032])
    assert smoothing.state_dict()["smoothed"] == pytest.approx(2 - 0.5**7)


def test_schedule_over_steps_goes_on(tmp_path):
    schedule = WarmupLinear(0.08, 0.0, BATCHES, 8 * BATCHES)
    toy = train(tmp_path, schedule, JUMP, [revert(tmp_path)])
    factors = [1] * 5 + [0.8] * 3
    expected = [0.08 * schedule(epoch * BATCHES) * factors[epoch] for epoch in range(8)]
    assert list(toy.rates.values()) == pytest.approx(expected)
    assert same(toy.starts[5], toy.starts[2])


@pytest.mark.parametrize(
    "schedule",
    [
        SlipperySlope(0.08, start=2, interval=4),
        Plateau(0.08, patience=1, cooldown=1, threshold=0.2),
        WarmupLinear(0.08, 0.0, 2, 100),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
def test_resumed_training_equals_an_uninterrupted_one(tmp_path, schedule):
    """Interrupted after every single validation."""
    losses = [2.0, 1.0, 2.1, 3.0, 9.0, 5.0, 5.0, 5.0, 0.9, 1.3]

    def callbacks(directory):
        return [SmoothedLoss(0.5), revert(directory)]

    whole_callbacks = callbacks(tmp_path / "whole")
    whole = train(tmp_path / "whole", schedule, losses, whole_callbacks)
    assert whole_callbacks[1].reverts == 2
    starts, rates = {}, {}
    for epoch in range(len(losses)):
        latest = callbacks(tmp_path / "parts")
        part = train(tmp_path / "parts", schedule, losses, latest, epochs=epoch + 1, resume=epoch > 0)
        assert list(part.rates) == [epoch]
        starts |= part.starts
        rates |= part.rates
    assert rates == whole.rates
    assert same(starts, whole.starts)
    assert [callback.state_dict() for callback in latest] == [
        callback.state_dict() for callback in whole_callbacks
    ]


def test_number_of_reverts_is_logged(tmp_path):
    toy = train(tmp_path, FLAT, JUMP, [revert(tmp_path)])
    assert toy.trainer.callback_metrics["train/reverts"] == 1


def test_gives_up(tmp_path):
    losses = [1.0] + [5.0] * 20
    with pytest.raises(
        TrainingError, match=r"above 2 x 1, or not finite, in 3 validations in a row, after 2 reverts; lower"
    ):
        train(tmp_path, FLAT, losses, [revert(tmp_path, max_reverts=2)])


def test_kept_state_is_plain_data(tmp_path):
    train(tmp_path, FLAT, JUMP, [SmoothedLoss(), revert(tmp_path)])
    state = torch.load(tmp_path / "revert.ckpt", weights_only=True)
    assert (state["loss"], state["epoch"]) == (1.0, 2)
    names = ["last.ckpt", "revert-previous.ckpt", "revert.ckpt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_an_older_checkpoint_goes_on_with_the_state_before(tmp_path):
    """The last checkpoint is damaged, and the one before it is older than the newest best validation."""
    losses = [1.0, 3.0, 2.5, 2.5]
    train(tmp_path, FLAT, losses, [revert(tmp_path)], epochs=2)
    kept, before = tmp_path / "revert.ckpt", tmp_path / "revert-previous.ckpt"
    newer = torch.load(kept, weights_only=True) | {"loss": 0.5}
    kept.replace(before)
    torch.save(newer, kept)
    train(tmp_path, FLAT, losses, [revert(tmp_path)], epochs=4, resume=True)
    assert torch.load(kept, weights_only=True)["loss"] == 1.0
    assert not before.exists()


def test_resuming_needs_the_kept_state(tmp_path):
    train(tmp_path, FLAT, JUMP, [revert(tmp_path)], epochs=3)
    kept = tmp_path / "revert.ckpt"
    other = torch.load(kept, weights_only=True) | {"loss": 0.5}
    torch.save(other, kept)
    with pytest.raises(
        CheckpointError, match=r"val/loss_h = 0.5, but the best one of the run has 1; restore"
    ):
        train(tmp_path, FLAT, JUMP, [revert(tmp_path)], resume=True)
    for content in (b"nonsense", None):
        kept.unlink()
        if content:
            kept.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"revert.ckpt: missing or damaged .* start the run anew"):
            train(tmp_path, FLAT, JUMP, [revert(tmp_path)], resume=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patience": 0}, "patience is 0 and"),
        ({"ratio": 0.9}, "ratio is 0.9; at least"),
        ({"decay": 0.0}, "decay is 0.0; choose"),
        ({"decay": 1.1}, "decay is 1.1; choose"),
        ({"max_reverts": -1}, "max_reverts is -1; choose"),
    ],
)
def test_mistakes(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        revert(tmp_path, **settings)


def test_unknown_loss(tmp_path):
    with pytest.raises(ConfigError, match=r"callbacks.revert.monitor is val/lss, which is not logged"):
        train(tmp_path, FLAT, JUMP, [revert(tmp_path, monitor="val/lss")])
