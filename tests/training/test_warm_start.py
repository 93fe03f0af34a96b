"""Networks that start from trained weights: first outputs, copied tensors, and refused networks."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import checkpoints, crystals, molecules
from tests.deeph_e3_folders import write_folder
from tests.weights.released.test_deeph_e3 import meta, state
from tests.weights.released.test_loading import qhnet_state
from tracegrad.backbones.deeph_e3 import DeepHE3
from tracegrad.backbones.qhnet import QHNet
from tracegrad.errors import CheckpointError
from tracegrad.hamiltonian.basis import SPINS
from tracegrad.hamiltonian.graph import collate, crystal_graph
from tracegrad.model.network import HamiltonianModel
from tracegrad.training.warm_start import start_from
from tracegrad.weights.construct import construct
from tracegrad.weights.released import load_deeph_e3_folder, load_released_qhnet

ARMS = {
    "none": {"trace": False, "grad": False},
    "trace": {"trace": True, "grad": False},
    "grad": {"trace": False, "grad": True},
    "tracegrad": {"trace": True, "grad": True},
}
GOLDEN_QHNET = {"channels": 16, "bottleneck": 8, "radial": 16}
MOS2 = {"irreps": "16x0e+8x1o+6x2e+4x3o+2x4e", "embed": 16, "blocks": 2, "cutoff": 6.4}


def settings(kind: dict[str, Any], arm: str, backbone: dict[str, Any] | None = None, **options: Any) -> dict:
    """Settings of the network of an arm, with changes of its backbone and of its TraceGrad part."""
    changed = copy.deepcopy(kind)
    changed["backbone"] |= backbone or {}
    changed["tracegrad"] = copy.deepcopy(checkpoints.QHNET["tracegrad"]) | ARMS[arm] | options
    return changed


def network(values: dict, seed: int = 5) -> HamiltonianModel:
    torch.manual_seed(seed)
    return construct(values, "settings").double()


def graph_of(model: HamiltonianModel):
    if model.backbone.periodic:
        carbon = (np.array([6]), *crystals.CHAIN[1:])
        crystal = crystals.MOS2 if 42 in model.basis.elements else carbon
        return collate([crystal_graph(*crystal, model.basis, dtype=torch.float64)])
    return collate([molecules.labelled_graph(m, model.basis) for m in molecules.ALL[:2]])


def blocks_of(model: HamiltonianModel) -> list[torch.Tensor]:
    return list(model(graph_of(model)).blocks.values())


@pytest.mark.parametrize("residual", ["sum", "relative"])
@pytest.mark.parametrize("arm", ["grad", "tracegrad"])
@pytest.mark.parametrize("kind", [checkpoints.QHNET, checkpoints.DEEPH_E3], ids=["qhnet", "deeph_e3"])
def test_first_outputs_with_a_gain_of_zero_are_those_of_the_backbone(tmp_path, kind, arm, residual):
    before = checkpoints.write_run(tmp_path, settings(kind, "none"))
    model = network(settings(kind, arm, gain="zero", residual=residual))
    assert not torch.equal(blocks_of(model)[0], blocks_of(before)[0])
    found = start_from(model, tmp_path)
    for own, theirs in zip(blocks_of(model), blocks_of(before), strict=True):
        assert torch.equal(own, theirs)
    assert len(found.loaded) == len(before.state_dict()) < found.total == len(model.state_dict())
    assert all(name.startswith(("tracegrad.blocks.edge.", "tracegrad.decoders.edge")) for name in found.new)

    sum(block.abs().square().sum() for block in blocks_of(model)).backward()
    gains = [p for name, p in model.named_parameters() if "gains" in name]
    assert gains
    assert all(gain.grad.abs().max() > 0 for gain in gains)


def test_new_parts_keep_their_values(tmp_path):
    checkpoints.write_run(tmp_path, settings(checkpoints.QHNET, "none"))
    model = network(settings(checkpoints.QHNET, "tracegrad"))
    before = copy.deepcopy(model.state_dict())
    found = start_from(model, tmp_path / "checkpoints" / "best.ckpt")
    for name, tensor in model.state_dict().items():
        assert (name in found.loaded) == name.startswith("backbone.")
        assert name in found.loaded or torch.equal(tensor, before[name])
    assert found.file == tmp_path / "checkpoints" / "best.ckpt"
    assert found.new == [
        "tracegrad.blocks.edge.0",
        "tracegrad.blocks.edge.1",
        "tracegrad.decoders.edge",
    ]
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


BLOCKS = ["tracegrad.blocks.edge.0", "tracegrad.blocks.edge.1"]
GAINS = ["tracegrad.gains.edge.0", "tracegrad.gains.edge.1"]
DECODER = "tracegrad.decoders.edge"


@pytest.mark.parametrize(
    ("arm", "options", "own", "own_options", "new"),
    [
        ("tracegrad", {}, "tracegrad", {}, []),
        ("tracegrad", {}, "none", {}, []),
        ("tracegrad", {}, "grad", {}, []),
        ("grad", {}, "tracegrad", {}, [DECODER]),
        ("tracegrad", {"hidden": 11}, "tracegrad", {}, [*BLOCKS, DECODER]),
        ("tracegrad", {"channels": 13}, "tracegrad", {}, BLOCKS),
        ("tracegrad", {}, "tracegrad", {"gain": "zero"}, GAINS),
        ("tracegrad", {"channels": 13}, "tracegrad", {"gain": "zero"}, BLOCKS),
        ("tracegrad", {"gain": "zero"}, "tracegrad", {"gain": "zero"}, []),
        ("tracegrad", {"gain": "zero"}, "tracegrad", {}, BLOCKS),  # at full size v would be another one
        ("grad", {"last_v": False}, "grad", {}, BLOCKS[1:]),
    ],
)
def test_tracegrad_parts_are_taken_over_where_they_fit(tmp_path, arm, options, own, own_options, new):
    other = checkpoints.write_run(tmp_path, settings(checkpoints.QHNET, arm, **options))
    model = network(settings(checkpoints.QHNET, own, **own_options))
    before = copy.deepcopy(model.state_dict())
    found = start_from(model, tmp_path)
    assert found.new == new
    theirs = other.state_dict()
    for name, tensor in model.state_dict().items():
        start = torch.ones_like(before[name]) if name in new else before[name]  # a gain of a block taken over
        assert torch.equal(tensor, theirs[name] if name in found.loaded else start), name
    fresh = {name for name in before if name not in found.loaded}
    if not new:
        assert not fresh


@pytest.mark.parametrize("kind", [checkpoints.QHNET, checkpoints.DEEPH_E3], ids=["qhnet", "deeph_e3"])
@pytest.mark.parametrize("arm", ["grad", "tracegrad"])
def test_a_trained_v_is_not_turned_off_by_a_gain(tmp_path, kind, arm):
    before = checkpoints.write_run(tmp_path, settings(kind, arm))
    model = network(settings(kind, arm, gain="zero"))
    start_from(model, tmp_path)
    for own, theirs in zip(blocks_of(model), blocks_of(before), strict=True):
        assert torch.equal(own, theirs)


def test_blocks_that_added_no_v_start_with_a_gain_of_zero(tmp_path):
    before = checkpoints.write_run(tmp_path, settings(checkpoints.QHNET, "trace"))
    model = network(settings(checkpoints.QHNET, "tracegrad", gain="zero"))
    assert start_from(model, tmp_path).new == GAINS
    for own, theirs in zip(blocks_of(model), blocks_of(before), strict=True):
        assert torch.equal(own, theirs)
    last = checkpoints.write_run(tmp_path, settings(checkpoints.QHNET, "tracegrad", last_v=False))
    start_from(model, tmp_path)
    for own, theirs in zip(blocks_of(model), blocks_of(last), strict=True):
        assert torch.equal(own, theirs)


def test_from_a_released_qhnet(tmp_path):
    path = tmp_path / "QHNet.pt"
    torch.save({"state_dict": qhnet_state()}, path)
    theirs = load_released_qhnet(qhnet_state())
    sizes = {"lmax": theirs.backbone.lmax, "layers": len(theirs.backbone.convolutions), **GOLDEN_QHNET}
    model = network(settings(checkpoints.QHNET, "tracegrad", sizes, gain="zero"))
    assert isinstance(model.backbone, QHNet)
    assert start_from(model, str(path)).file == path
    for own, other in zip(blocks_of(model), blocks_of(theirs), strict=True):
        assert torch.equal(own, other)


@pytest.fixture
def mos2(tmp_path) -> Path:
    return write_folder(tmp_path / "mos2", state("small"), meta("small"), r_max=6.4)


def of_mos2(arm: str = "tracegrad", shells: str = "s2p2d1", **backbone: Any) -> dict:
    basis = checkpoints.DEEPH_E3["backbone"]["basis"] | {"shells": ["Mo7.0-s3p2d2", f"S7.0-{shells}"]}
    sizes = {"basis": basis, "lmax": 4, "radial": 128, "legacy_e3nn": True, **MOS2, **backbone}
    return settings(checkpoints.DEEPH_E3, arm, sizes, gain="zero")


def test_from_a_folder_of_deeph_e3(mos2):
    model, theirs = network(of_mos2()), load_deeph_e3_folder(mos2)
    assert isinstance(model.backbone, DeepHE3)
    found = start_from(model, mos2)
    assert found.file == mos2 / "best_model.pkl"
    for own, other in zip(blocks_of(model), blocks_of(theirs), strict=True):
        assert torch.equal(own, other)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (of_mos2(legacy_e3nn=False), "its weights need model.backbone.legacy_e3nn=true, which is false here"),
        (of_mos2(cutoff=7.2), "its weights need model.backbone.cutoff=6.4, which is 7.2 here"),
        (
            of_mos2(blocks=3),
            r"best_model.pkl is of another architecture \(missing: backbone.edge_updates.2",
        ),
        (of_mos2(embed=8), r"other shape: backbone.*embedding \[2, 16\] instead of \[2, 8\]"),
        (
            of_mos2(shells="s2p1d1"),
            "was trained for S s2p2d1, Mo s3p2d2, and the network to train is for S s2p1d1",
        ),
        (
            settings(checkpoints.QHNET, "none"),
            "holds a DeepH-E3, and the network to train is a QHNet; choose another",
        ),
    ],
)
def test_other_backbones_are_refused(mos2, values, message):
    model = network(values)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError, match=message):
        start_from(model, mos2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_other_elements_with_tensors_of_equal_shapes_are_refused(tmp_path):
    checkpoints.write_run(tmp_path, settings(checkpoints.DEEPH_E3, "none"))
    silicon = checkpoints.DEEPH_E3["backbone"]["basis"] | {"shells": ["Si7.0-s2p2d1"]}
    model = network(settings(checkpoints.DEEPH_E3, "none", {"basis": silicon}))
    with pytest.raises(
        CheckpointError, match="trained for C s2p2d1, and the network to train is for Si s2p2d1"
    ):
        start_from(model, tmp_path)


def test_weights_take_the_precision_of_the_network(tmp_path):
    before = checkpoints.write_run(tmp_path, settings(checkpoints.QHNET, "none"))
    model = network(settings(checkpoints.QHNET, "grad")).float()
    start_from(model, tmp_path)
    for name, tensor in before.state_dict().items():
        own = model.state_dict()[name]
        assert own.dtype == (torch.float32 if tensor.is_floating_point() else tensor.dtype)
        assert torch.equal(own, tensor.to(own.dtype))


def test_paths_without_a_network_are_refused(tmp_path):
    model = network(settings(checkpoints.QHNET, "none"))
    with pytest.raises(
        CheckpointError, match=r"none: no such file or directory; give a run directory, .*safetensors"
    ):
        start_from(model, tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"holds no best_model\.pkl, so it is no model folder"):
        start_from(model, tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match=r"best\.ckpt: no such checkpoint"):
        start_from(model, tmp_path)


def both_spins(kind: dict, arm: str) -> dict:
    """Settings of the network for both spins."""
    changed = settings(kind, arm)
    basis = changed["backbone"]["basis"]
    basis["collinear"] = True
    return changed


def test_each_spin_starts_with_the_weights_of_a_network_without_spin(tmp_path):
    before = checkpoints.write_run(tmp_path, settings(checkpoints.DEEPH_E3, "tracegrad"))
    model = network(both_spins(checkpoints.DEEPH_E3, "tracegrad"))
    found = start_from(model, tmp_path)
    assert len(found.loaded) == found.total
    carbon = (np.array([6]), *crystals.CHAIN[1:])
    crystal = crystals.MOS2 if 42 in model.basis.elements else carbon
    for spin in SPINS:
        graph = collate([crystal_graph(*crystal, model.basis, spin=spin, dtype=torch.float64)])
        assert torch.equal(model(graph).blocks["edge"], blocks_of(before)[0])


def test_one_spin_of_a_network_for_both_is_refused(tmp_path):
    checkpoints.write_run(tmp_path, both_spins(checkpoints.DEEPH_E3, "none"))
    with pytest.raises(
        CheckpointError, match=r"of both spins, and the network to train is for .* shells and spin"
    ):
        start_from(network(settings(checkpoints.DEEPH_E3, "none")), tmp_path)
