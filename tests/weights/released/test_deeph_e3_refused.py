"""Files that are no network of DeepH-E3, or one that does not fit."""

import re

import numpy as np
import pytest
import torch

from tests.weights.released.test_deeph_e3 import NAME, load, meta, state
from tracegrad.errors import BasisError, CheckpointError
from tracegrad.weights.released import load_released_deeph_e3

# --- what is refused


def without(key: str):
    return lambda s: {k: v for k, v in s.items() if k != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without(NAME), f"{NAME} is missing"),
        (without("embedding.weight"), "it has no embedding.weight but edge_update_blocks"),
        (without("node_update_blocks.0.conv.fc.0.weight"), "it has no node_update_blocks.0.conv.fc.0.weight"),
        (without("lin_edge.bias"), "lin_edge.bias is missing"),
        (lambda s: {**s, "extra.weight": torch.ones(2)}, "it has no place for extra.weight"),
        (
            lambda s: {**s, **{f"x{i}": torch.ones(2) for i in range(8)}},
            "no place for x0, x1, x2, x3, x4 and 3 more",
        ),
        (lambda s: {**s, NAME: s[NAME][:-1]}, rf"{NAME} has shape \[255\] and dtype torch.float64; 256 "),
        (lambda s: {**s, NAME: s[NAME].long()}, rf"{NAME} has shape \[256\] and dtype torch.int64"),
        (
            lambda s: {**s, "embedding.weight": s["embedding.weight"][:31]},
            "an embedding of 31 numbers for 2 elements and edges that start with 16 channels do not fit",
        ),
        (
            lambda s: {**s, "node_update_blocks.1.norm.weight": torch.ones(37).double()},
            r"node_update_blocks.1.norm.weight has shape \[37\] and dtype torch.float64; 36 ",
        ),
        (
            lambda s: {**s, "node_update_blocks.4.lin_pre.bias": torch.ones(16).double()},
            "it has no node_update_blocks.4.conv.fc.4.bias",
        ),
        (lambda s: {key: value.flatten() for key, value in s.items()}, "its weights are flat"),
        (lambda s: {}, "it has no embedding.weight but "),
        (lambda s: {"state_dict": {}}, "it has no embedding.weight but "),
        (lambda s: {"state_dict": None}, "not NoneType"),
        (lambda s: {**s, "epoch": 3}, "epoch is int, not a tensor"),
        (lambda s: {**s, "step": np.array(["x"])}, "step is ndarray, not a tensor"),
        (
            lambda s: {"state_dict": {f"model.backbone.{k}": v for k, v in s.items()}},
            "TraceGrad itself, not a released DeepH-E3.*load_model",
        ),
        (lambda s: {"state_dict": {}, "tracegrad": {}}, r"load_model\(run_directory\)"),
    ],
)
def test_other_networks_are_refused(change, message):
    with pytest.raises(CheckpointError, match=message):
        load_released_deeph_e3(change(state("small")), meta("small"))


def test_missing_tensors_of_any_kind_are_named():
    kinds = {re.sub(r"\d+", "#", name): name for name in state("soc") if not name.startswith("lin_node")}
    assert len(kinds) == 25
    for name in kinds.values():
        with pytest.raises(CheckpointError, match=re.escape(name) + " is missing|has no " + re.escape(name)):
            load_released_deeph_e3(without(name)(state("soc")), meta("soc"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"orbital_types": [[0, 0, 1, 1, 2], [0, 0, 0, 1, 1, 2]]}, r"has shape .* are needed"),
        ({"orbital_types": [[0, 1], [0, 0, 1]]}, r"has shape .* are needed"),
        ({"spinful": True}, r"the Hamiltonian needs 0o"),
        ({"index_to_Z": [42, 16]}, r"index_to_Z is \[42, 16\].*ascending order"),
        ({"index_to_Z": [16, 16]}, r"index_to_Z is \[16, 16\].*ascending order"),
        ({"index_to_Z": [16]}, r"index_to_Z is \[16\] and orbital_types has 2 entries"),
        (
            {"index_to_Z": [6, 16, 42], "orbital_types": [[0], [0], [0]]},
            "an embedding of 32 numbers for 3 elements",
        ),
    ],
)
def test_a_dataset_info_that_does_not_fit_is_refused(change, message):
    with pytest.raises(CheckpointError, match=message):
        load_released_deeph_e3(state("small"), {**meta("small"), **change})


def test_spinful_weights_need_a_spinful_dataset_info():
    with pytest.raises(CheckpointError, match=r"are needed|no place for"):
        load_released_deeph_e3(state("soc"), {**meta("soc"), "spinful": False})


@pytest.mark.parametrize("key", ["index_to_Z", "orbital_types", "spinful"])
def test_missing_keys_of_dataset_info_are_named(key):
    info = {k: v for k, v in meta("small").items() if k != key}
    with pytest.raises(CheckpointError, match=rf"dataset_info lacks \['{key}'\]; it holds index_to_Z"):
        load_released_deeph_e3(state("small"), info)


@pytest.mark.parametrize("change", [{"orbital_types": [[1, 0], [0]]}, {"index_to_Z": [16, 942]}])
def test_impossible_shells_and_elements_are_errors_of_the_basis(change):
    with pytest.raises(BasisError):
        load_released_deeph_e3(state("small"), {**meta("small"), **change})


def test_time_reversal_without_spin_is_refused():
    with pytest.raises(CheckpointError, match="time_reversal=true needs a spinful basis"):
        load("small", time_reversal=True)


@pytest.mark.usefixtures("unchecked")
def test_unreadable_files_are_refused(tmp_path):
    damaged, listed = tmp_path / "damaged.pkl", tmp_path / "list.pkl"
    damaged.write_bytes(b"no checkpoint")
    torch.save([torch.ones(2)], listed)
    for path, message in (
        (tmp_path / "missing.pkl", "not a readable checkpoint"),
        (damaged, "damaged, or not a checkpoint of plain data"),
        (listed, "not list"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load_released_deeph_e3(path, meta("small"))
