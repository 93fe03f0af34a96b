"""A second stage that starts from a network that was trained as its first stage."""

import copy
from types import SimpleNamespace

import pytest
import torch

from experiments.training.warm_start import warm_start
from tests import checkpoints, crystals
from tests.callbacks.test_test_report import make_module
from tests.training.test_warm_start import ARMS, blocks_of, network, settings
from tracegrad.errors import CheckpointError, ConfigError
from tracegrad.training.warm_start import start_from


def harmose(arm: str, stage: str, **backbone) -> dict:
    of_stage2 = {"layers": 2, "width": 8, "heads": 2}
    values = settings(checkpoints.DEEPH_E3, arm, backbone)
    values["backbone"] |= {"_target_": "tracegrad.backbones.harmose.HarmoSE", "stage": stage, **of_stage2}
    return values


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("alone", ["deeph_e3", "first"])
def test_h_is_at_first_that_of_the_trained_network(tmp_path, arm, alone):
    values = settings(checkpoints.DEEPH_E3, arm) if alone == "deeph_e3" else harmose(arm, "first")
    trained = checkpoints.write_run(tmp_path, values)
    model = network(harmose(arm, "second"))
    started = start_from(model, tmp_path)
    assert started.new == ["backbone.rotations", "backbone.transformer"]
    for a, b in zip(blocks_of(model), blocks_of(trained), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-15)  # some processors round by memory alignment


def test_a_whole_network_is_taken_over_completely(tmp_path):
    trained = checkpoints.write_run(tmp_path, harmose("tracegrad", "joint"))
    model = network(harmose("tracegrad", "second"))
    assert start_from(model, tmp_path).new == []
    for name, tensor in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    ("values", "error"),
    [
        (checkpoints.QHNET, "holds a QHNet, and the network to train is a HarmoSE-style"),
        (settings(checkpoints.DEEPH_E3, "none", {"cutoff": 6.0}), r"need model.backbone.cutoff=6.0"),
        (settings(checkpoints.DEEPH_E3, "none", {"embed": 5}), "backbone.first"),
    ],
)
def test_other_first_stages_are_refused(tmp_path, values, error):
    checkpoints.write_run(tmp_path, copy.deepcopy(values))
    with pytest.raises(CheckpointError, match=error):
        start_from(network(harmose("none", "second")), tmp_path)


@pytest.mark.parametrize(
    ("trained", "arm", "what"),
    [
        ("none", "tracegrad", "it lacks tracegrad.blocks.edge.0"),
        ("tracegrad", "none", "tracegrad.blocks.edge.0.* has no place"),
        ("tracegrad", "grad", "tracegrad.decoders.edge.* has no place"),
        ("grad", "tracegrad", "it lacks tracegrad.decoders.edge"),
    ],
)
def test_a_first_stage_of_another_arm_is_refused(tmp_path, trained, arm, what):
    checkpoints.write_run(tmp_path, settings(checkpoints.DEEPH_E3, trained))
    with pytest.raises(CheckpointError, match=rf"is of another arm .*{what}.*choose the same tracegrad="):
        start_from(network(harmose(arm, "second")), tmp_path)
    start_from(network(harmose(arm, "joint")), tmp_path)  # there it is trained


def test_a_gain_that_is_new_changes_nothing(tmp_path):
    trained = checkpoints.write_run(tmp_path, settings(checkpoints.DEEPH_E3, "tracegrad"))
    values = harmose("tracegrad", "second")
    values["tracegrad"]["gain"] = "zero"
    model = network(values)
    start_from(model, tmp_path)
    for a, b in zip(blocks_of(model), blocks_of(trained), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


def test_another_basis_is_refused(tmp_path):
    values = settings(checkpoints.DEEPH_E3, "none")
    values["backbone"]["basis"]["shells"] = ["C6.0-s2p2"]
    checkpoints.write_run(tmp_path, values)
    with pytest.raises(CheckpointError, match="both need the same elements, shells and spin"):
        start_from(network(harmose("none", "second")), tmp_path)


def test_a_second_stage_needs_a_first(tmp_path):
    with pytest.raises(ConfigError, match=r"stage=second trains the second stage on a trained first one"):
        warm_start(network(harmose("none", "second")), None, tmp_path, resumed=False)
    assert warm_start(network(harmose("none", "joint")), None, tmp_path, resumed=False) == {}


@pytest.mark.parametrize(
    ("epoch", "epochs", "step", "steps", "share"),
    [
        (3, 10, 5, -1, 0.3),
        (0, -1, 5, 20, 0.25),
        (3, 10, 18, 20, 0.9),
        (3, None, 0, 20, 0.0),
        (7, -1, 9, -1, 1.0),
    ],
)
def test_a_training_tells_its_network_how_far_it_is(epoch, epochs, step, steps, share, monkeypatch):
    module, told = make_module(crystals.SmallBackbone(crystals.SPINLESS)), []
    monkeypatch.setattr(module.model.backbone, "at_progress", told.append)
    module._trainer = SimpleNamespace(
        current_epoch=epoch, max_epochs=epochs, global_step=step, max_steps=steps
    )
    module.on_train_batch_start(None, 0)
    assert told == [share]
