"""Released networks: the choice of the loader for a path, and paths that neither loader accepts."""

import numpy as np
import pytest
import torch

from tests import checkpoints, molecules
from tests.deeph_e3_folders import write_folder
from tests.weights.released.test_deeph_e3 import meta, state
from tests.weights.released.test_qhnet import GOLDEN
from tracegrad.errors import CheckpointError
from tracegrad.weights.released import load_released, load_released_qhnet


def qhnet_state() -> dict[str, torch.Tensor]:
    with np.load(GOLDEN, allow_pickle=False) as file:
        return {key[3:]: torch.from_numpy(file[key]) for key in file.files if key.startswith("sd/")}


def test_a_file_is_a_qhnet(tmp_path):
    (tmp_path / "src").mkdir()  # of another project
    path = tmp_path / "QHNet-QH9-stable-ood.pt"
    torch.save({"state_dict": qhnet_state(), "eval": {"mae": torch.ones(())}, "batch_idx": 3}, path)
    found = load_released(path)
    assert (found.file, found.name) == (path, "QHNet-QH9-stable-ood")
    expected = load_released_qhnet(qhnet_state()).hamiltonian(*molecules.WATER)
    assert torch.equal(found.model.hamiltonian(*molecules.WATER), expected)


def test_a_folder_is_a_deeph_e3(tmp_path):
    folder = write_folder(tmp_path / "mos2", state("small"), meta("small"))
    found = load_released(folder, legacy_e3nn=False, edge_chunk=5)
    assert (found.file, found.name) == (folder / "best_model.pkl", "mos2")
    backbone = found.model.backbone
    assert (backbone.label, backbone.legacy_e3nn, backbone.edge_chunk) == ("DeepH-E3", False, 5)
    other = load_released(folder / "model.pkl")
    assert (other.file, other.name) == (folder / "model.pkl", "mos2_model")
    assert other.model.backbone.legacy_e3nn


def test_other_paths_are_refused(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"none\.pt: no such file or directory; give a released checkpoint"
    ):
        load_released(tmp_path / "none.pt")
    checkpoints.write_run(tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"is a run directory of TraceGrad.*give it as run="):
        load_released(tmp_path / "run")
    with pytest.raises(
        CheckpointError, match=r"best\.ckpt: this is a checkpoint of TraceGrad itself.*run=DIR"
    ):
        load_released(tmp_path / "run" / "checkpoints" / "best.ckpt")
    alone = tmp_path / "best_model.pkl"
    torch.save({"state_dict": state("small")}, alone)
    with pytest.raises(
        CheckpointError, match=r"best_model\.pkl: the weights of a DeepH-E3 without .*folder, .*src"
    ):
        load_released(alone)
    torch.save({"a": torch.ones(2)}, alone)
    with pytest.raises(
        CheckpointError, match=r"best_model\.pkl: not a released QHNet: it has no node_embedding"
    ):
        load_released(alone)
