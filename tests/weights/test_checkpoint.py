"""Checkpoints with objects other than plain data, and permissions of written files."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tracegrad
from tracegrad.errors import CheckpointError
from tracegrad.weights.checkpoint import load_checkpoint
from tracegrad.weights.model_file import write_model_file


class _Command:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (Path("x"), r"pathlib\.PosixPath"),
        (np.float64(1), r"numpy\._core\.multiarray\.scalar"),
        (_Command(), r"posix\.system"),
    ],
)
def test_objects_are_named_and_not_reported_as_damage(tmp_path: Path, content: Any, name: str) -> None:
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": {}, "extra": content}, path)
    for _ in ("of torch", "plain"):
        with pytest.raises(CheckpointError, match=rf"a\.ckpt: not loaded: it holds {name}, ") as caught:
            load_checkpoint(path)
        assert "damaged" not in str(caught.value)
        assert "anew" not in str(caught.value)
        path.write_bytes(pickle.dumps({"extra": content}, protocol=2))


def test_released_weights_are_sent_to_their_loader(tmp_path: Path) -> None:
    torch.save({"state_dict": {"embedding.weight": torch.ones(2)}}, tmp_path / "QHNet.pt")
    message = r"load_released_qhnet\(path\).*tracegrad evaluate checkpoint="
    with pytest.raises(CheckpointError, match=message):
        tracegrad.load_model(tmp_path / "QHNet.pt")


def test_model_files_have_the_usual_permissions(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_model_file(tmp_path / "a.safetensors", {"w": torch.ones(2)}, {"model": {}})
    finally:
        os.umask(before)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o640
