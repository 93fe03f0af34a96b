"""A validation whose predictions are not finite, in real trainings of the real module."""

import csv
import json
from math import inf, isfinite, isnan, nan
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning import Callback

from callbacks.revert import RevertAndDecay
from callbacks.smoothing import SmoothedLoss
from experiments.settings.configuration import composed, plain
from experiments.training.parts import build, make_callbacks, make_trainer
from experiments.training.runs import train
from experiments.training.warning_filter import quiet
from tests.callbacks.poison import Poison
from tests.callbacks.toy import same
from tests.callbacks.toy import train as train_toy
from tests.experiments.processes import PLAIN
from tests.experiments.test_train import trained
from tests.experiments.test_train_crystals import SMALL as SMALL_CRYSTALS
from tracegrad.errors import TrainingError
from tracegrad.training.schedule import Plateau
from tracegrad.weights.checkpoint import load_checkpoint

# Two steps an epoch.
CRYSTALS = [
    *SMALL_CRYSTALS,
    "data.sizes=[2,1,1]",
    "callbacks.learning_rate=null",
    "trainer.max_steps=12",
    "test=false",
]


class Starts(Callback):
    """The weights at the start of each epoch, and the metrics after it."""

    def __init__(self) -> None:
        self.weights: dict[int, Any] = {}
        self.metrics: dict[int, dict[str, float]] = {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx: int) -> None:
        if not batch_idx:
            self.weights[trainer.current_epoch] = {
                name: p.detach().clone() for name, p in pl_module.named_parameters()
            }

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.metrics[trainer.current_epoch] = {k: float(v) for k, v in trainer.callback_metrics.items()}


def fit(directory: Path, *overrides: str, more: list[Callback]) -> list[Callback]:
    """Train on crystals with all callbacks of DeepH-E3's recipe."""
    config = composed("train", [*CRYSTALS, *overrides, f"run_dir={directory}"])
    parts, callbacks = build(config, plain(config)), make_callbacks(config)
    with quiet():
        trainer = make_trainer(config, [*callbacks, *more], [])
        trainer.fit(parts.module, parts.datamodule)
    return callbacks


@pytest.mark.slow
def test_the_training_goes_back_to_the_best_validation(tmp_path, capsys):
    starts = Starts()
    poisons = [Poison(epochs=[2], value=nan), Poison(epochs=[3], value=inf)]
    callbacks = fit(
        tmp_path, "callbacks.revert.patience=2", "callbacks.revert.ratio=1e6", more=[*poisons, starts]
    )
    (revert,) = (callback for callback in callbacks if isinstance(callback, RevertAndDecay))
    assert revert.reverts == 1
    losses = {epoch: metrics["val/loss_h"] for epoch, metrics in starts.metrics.items()}
    assert [epoch for epoch, loss in losses.items() if not isfinite(loss)] == [2, 3]
    best = min((0, 1), key=losses.__getitem__)
    assert same(starts.weights[4], starts.weights[best + 1])
    assert not same(starts.weights[5], starts.weights[best + 2])
    out = capsys.readouterr().out
    assert f"epoch 4: val/loss_h was above 1e+06 x {losses[best]:.4g}, or not finite, in 2 validations" in out
    assert isnan(starts.metrics[2]["val/h_mae"])
    assert "val/h_mae nan meV" in out


@pytest.mark.slow
def test_a_training_without_any_finite_validation_ends_and_says_so(tmp_path):
    every = "+callbacks.poison={_target_: tests.callbacks.poison.Poison, epochs: [0, 1]}"
    config = composed("train", [*CRYSTALS, every, "trainer.max_steps=4", "test=true", f"run_dir={tmp_path}"])
    with pytest.raises(
        TrainingError, match=r"best\.ckpt: there is nothing to test: no validation had a finite"
    ):
        train(config, plain(config))
    assert not (tmp_path / "checkpoints" / "best.ckpt").exists()
    assert load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 4


@pytest.mark.slow
def test_logs_checkpoints_and_results_of_molecules(tmp_path):
    """Also for the first validation, the one before the training, and a test; with orbital metrics."""
    poison = "+callbacks.poison={_target_: tests.callbacks.poison.Poison, epochs: [0, 2], sanity: true, test: true}"
    trained(
        tmp_path,
        *PLAIN,
        poison,
        "trainer.num_sanity_val_steps=1",
        "callbacks.orbitals.every_n_validations=1",
        "data.train_size=16",
        "data.fractions=[.96,.02,.02]",
        "trainer.max_steps=6",  # two an epoch
    )
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["val/loss"]]
    for name in ("val/loss", "val/loss_h", "val/loss_t", "val/h_mae", "val/eps_mae"):
        assert [isfinite(float(row[name])) for row in rows] == [False, True, False], name
    assert load_checkpoint(tmp_path / "checkpoints" / "best.ckpt")["epoch"] == 1
    assert load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 6
    metrics = json.loads((tmp_path / "results.json").read_text())["metrics"]
    assert {metrics[f"test/{name}"] for name in ("h_mae", "h_mae_nondiag", "t_mae", "eps_mae")} == {None}


@pytest.mark.slow
def test_a_training_loss_that_is_not_finite_names_its_rows(tmp_path):
    with pytest.raises(
        TrainingError, match=r"not finite at step 5 \(loss_h = nan.* of database rows \[\d+\]"
    ):
        fit(tmp_path, more=[Poison(steps=[5])])


@pytest.mark.parametrize("bad", [nan, inf])
def test_a_plateau_counts_it_as_a_validation_without_progress(tmp_path, bad):
    """The smoothed loss begins with the first finite loss, and losses that are not finite do not enter it."""
    schedule = Plateau(0.08, patience=1, cooldown=0, threshold=0.0)
    smoothing = SmoothedLoss(0.5)
    toy = train_toy(tmp_path, schedule, [bad, 2.0, 1.0, bad, bad, 1.0, 0.5, 0.25], [smoothing])
    rates = [0.08] * 5 + [0.04] * 3
    assert list(toy.rates.values()) == pytest.approx(rates)
    assert smoothing.state_dict()["smoothed"] == pytest.approx(0.25 / 2 + 0.5 / 4 + 1 / 8 + 1.5 / 8)


def test_the_smoothed_loss_is_infinite_before_the_first_finite_one(tmp_path):
    schedule = Plateau(0.08, patience=0, cooldown=0, threshold=0.0)
    toy = train_toy(tmp_path, schedule, [nan, nan], [SmoothedLoss(0.5)])
    assert toy.trainer.callback_metrics["val/loss_smooth"] == inf
    assert toy.trainer.lr_scheduler_configs[0].scheduler.best == inf


@pytest.mark.slow
def test_weights_of_the_network_are_as_before(tmp_path):
    """Only validation is affected: trainings with and without a bad validation end with the same weights."""
    for name, more in (("bad", [Poison(epochs=[1])]), ("good", [])):
        fit(tmp_path / name, "trainer.max_steps=6", more=more)
    bad, good = (
        load_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt")["state_dict"]
        for name in ("bad", "good")
    )
    assert all(torch.equal(bad[name], good[name]) for name in good)
