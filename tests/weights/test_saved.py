"""Loading networks from the disk; settings build nothing but networks."""

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from safetensors.torch import load_file, save_file

import tracegrad
from experiments.settings.configuration import composed, plain
from tests.checkpoints import DEEPH_E3, QHNET, write_checkpoint, write_run
from tests.molecules import WATER
from tracegrad.errors import BasisError, CheckpointError
from tracegrad.weights.construct import construct
from tracegrad.weights.model_file import write_model_file


def with_target(target: Any, place: str = "") -> dict[str, Any]:
    """Settings with another object in place of one part."""
    settings = copy.deepcopy(QHNET)
    part = settings
    for key in filter(None, place.split(".")):
        part = part[key]
    part.clear()
    part["_target_"] = target
    return settings


def test_a_run_directory_and_a_checkpoint_file(tmp_path: Path) -> None:
    model = write_run(tmp_path)
    write_run(tmp_path / "other", seed=1)
    (tmp_path / "other" / "checkpoints" / "best.ckpt").rename(tmp_path / "checkpoints" / "last.ckpt")
    expected = model.hamiltonian(*WATER)
    for source in (tmp_path, str(tmp_path), tmp_path / "checkpoints" / "best.ckpt"):
        found = tracegrad.load_model(source)
        assert not found.training
        assert torch.equal(found.hamiltonian(*WATER), expected)  # float64, as it was saved
    assert not torch.equal(tracegrad.load_model(tmp_path, "last").hamiltonian(*WATER), expected)


@pytest.mark.parametrize(
    "settings",
    [
        ["experiment=demo", "tracegrad=none"],
        ["experiment=demo", "tracegrad=tracegrad", "model.backbone.channels=4"],
        ["experiment=demo_crystals", "tracegrad=grad"],
        ["experiment=demo_crystals", "model=deeph2_small", "model.backbone.activation=s2"],
        ["experiment=bs", "model=deeph_e3_small", "data.path=x", "tracegrad.channels=8"],
    ],
)
def test_the_settings_of_training_are_built_as_by_hydra(settings: list[str]) -> None:
    config = composed("train", settings)
    ours, theirs = construct(plain(config)["model"], "model"), instantiate(config.model)
    assert str(ours) == str(theirs)
    assert ours.basis == theirs.basis
    theirs.load_state_dict(ours.state_dict())
    for name in ("backbone", "tracegrad"):
        plain_values = [
            {
                key: value
                for key, value in vars(getattr(model, name)).items()
                if isinstance(value, int | float | str | None)
            }
            for model in (ours, theirs)
        ]
        assert plain_values[0] == plain_values[1]


@pytest.mark.parametrize("place", ["", "backbone", "backbone.basis", "tracegrad"])
@pytest.mark.parametrize("partial", [False, True])
def test_a_malicious_checkpoint_is_refused_and_does_nothing(
    tmp_path: Path, place: str, partial: bool
) -> None:
    settings = with_target("os.system", place)
    part = settings
    for key in filter(None, place.split(".")):
        part = part[key]
    part |= {"command": f"touch {tmp_path / 'harm'}", "_partial_": partial}
    path = write_checkpoint(tmp_path / "bad.ckpt", settings, {"x": torch.zeros(1)})
    key = f"model.{place}".rstrip(".")
    with pytest.raises(CheckpointError, match=rf"bad\.ckpt: {key}: _target_ is 'os\.system', .* not called"):
        tracegrad.load_model(path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "target",
    [
        "builtins.eval",
        "tracegrad.system.whole_files.os.remove",
        "tracegrad.system.whole_files.replacing",
        "tracegrad.system.whole_files.Path",
        "tracegrad.weights.saved.load_model",
        "tracegrad.training.module.HamiltonianModule.load_from_checkpoint",
        "tracegrad.model.network.HamiltonianModel.load_state_dict",
        "tracegrad.model.network.HamiltonianModel.__class__",
        "tracegrad.hamiltonian.basis.OrbitalBasis.check",
        "tracegrad.errors.DataError",
        "tracegrad.nowhere.Network",
        "tracegrad.model.network.Network",
        "tracegrad.hamiltonian.basis.OrbitalBasis.openmx.Deeper",
        "torch.nn.Linear",
        "HamiltonianModel",
        "",
        None,
        ["tracegrad.model.network.HamiltonianModel"],
    ],
)
def test_only_networks_and_bases_of_this_package_are_built(target: Any) -> None:
    with pytest.raises(CheckpointError, match=r"^settings: _target_ is .* no network or basis"):
        construct({"_target_": target}, "settings")


class _Harm:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_pickled_objects_are_refused_and_do_nothing(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "bad.ckpt", QHNET, {}, extra=_Harm(tmp_path / "harm"))
    with pytest.raises(
        CheckpointError, match=r"bad\.ckpt: not loaded: it holds (posix|nt)\.mkdir, .*only its state_dict"
    ):
        tracegrad.load_model(path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_args_": [1]}, r"settings\.backbone: _args_ is no argument"),
        (
            {"chanels": 4},
            r"settings\.backbone: tracegrad\.backbones\.qhnet\.QHNet cannot be built .* 'chanels'",
        ),
        ({"_partial_": True}, r"settings: tracegrad\.model\.(network\.)?HamiltonianModel cannot be built"),
    ],
)
def test_arguments_that_do_not_fit(changes: dict[str, Any], message: str, unchecked: None) -> None:
    settings = copy.deepcopy(QHNET)
    settings["backbone"] |= changes
    with pytest.raises(CheckpointError, match=message):
        construct(settings, "settings")


def test_errors_of_the_parts_keep_their_name() -> None:
    settings = {"_target_": "tracegrad.hamiltonian.basis.OrbitalBasis.def2_svp", "elements": [1, 79]}
    with pytest.raises(BasisError, match=r"not for \[79\]"):
        construct(settings, "settings")


def test_missing_checkpoints_and_networks_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere: no such file or directory"):
        tracegrad.load_model(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"best\.ckpt: no such checkpoint; \S+ holds no checkpoints"):
        tracegrad.load_model(tmp_path)
    model = write_run(tmp_path)
    with pytest.raises(CheckpointError, match=r"lst\.ckpt: no such checkpoint; \S+ holds best\.ckpt"):
        tracegrad.load_model(tmp_path, "lst")
    torch.save({"state_dict": {"model.x": torch.zeros(1)}}, tmp_path / "bare.ckpt")
    with pytest.raises(CheckpointError, match=r"bare\.ckpt: holds no settings of TraceGrad"):
        tracegrad.load_model(tmp_path / "bare.ckpt")
    torch.save({"x": np.zeros(3).tolist()}, tmp_path / "foreign.ckpt")
    with pytest.raises(CheckpointError, match=r"foreign\.ckpt: holds no network of TraceGrad"):
        tracegrad.load_model(tmp_path / "foreign.ckpt")
    torch.save([1], tmp_path / "list.ckpt")
    with pytest.raises(CheckpointError, match=r"list\.ckpt: holds list, not a checkpoint"):
        tracegrad.load_model(tmp_path / "list.ckpt")
    state = model.state_dict()
    name = next(iter(state))
    del state[name]
    path = write_checkpoint(tmp_path / "cut.ckpt", QHNET, state)
    with pytest.raises(CheckpointError, match=rf"cut\.ckpt is of another .* \(missing: {re.escape(name)}\)"):
        tracegrad.load_model(path)
    path = write_checkpoint(tmp_path / "part.ckpt", QHNET["backbone"], state)
    with pytest.raises(CheckpointError, match=r"model is QHNet, not a HamiltonianModel"):
        tracegrad.load_model(path)


def model_file(path: Path, settings: Any = QHNET, **changes: Any) -> Path:
    """A model file of a small network in float64; ``changes`` of its record after it was written."""
    state = construct(QHNET, "settings").double().state_dict()
    write_model_file(path, state, {"model": settings})
    if changes:
        with path.open("rb") as file:
            head = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        record = json.loads(head["__metadata__"]["tracegrad"]) | changes
        save_file(load_file(path), path, {"tracegrad": json.dumps(record)})
    return path


def test_a_model_file_is_the_network_bit_for_bit(tmp_path: Path) -> None:
    model = construct(QHNET, "settings").double().eval()
    path = tmp_path / "model.safetensors"
    write_model_file(path, model.state_dict(), {"model": QHNET})
    found = tracegrad.load_model(str(path))
    assert not found.training
    for name, value in model.state_dict().items():
        assert torch.equal(found.state_dict()[name], value)
    assert torch.equal(found.hamiltonian(*WATER), model.hamiltonian(*WATER))


def test_tensors_that_share_memory_or_are_transposed_are_written(tmp_path: Path) -> None:
    state = construct(QHNET, "settings").double().state_dict()
    name = next(name for name, value in state.items() if value.ndim == 2 and value.shape[0] == value.shape[1])
    state[name] = state[name].mT
    path = tmp_path / "model.safetensors"
    write_model_file(path, state | {name: state[name]}, {"model": QHNET})
    assert torch.equal(tracegrad.load_model(path).state_dict()[name], state[name])


@pytest.mark.parametrize("place", ["", "backbone", "tracegrad"])
def test_a_malicious_model_file_is_refused_and_does_nothing(tmp_path: Path, place: str) -> None:
    settings = with_target("os.system", place)
    (settings[place] if place else settings)["command"] = f"touch {tmp_path / 'harm'}"
    path = model_file(tmp_path / "bad.safetensors", settings)
    with pytest.raises(
        CheckpointError, match=r"bad\.safetensors: model\S*: _target_ is 'os\.system', .* not called"
    ):
        tracegrad.load_model(path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, r"format 2, this version of TraceGrad reads 1"),
        ({"format": "1"}, r"format '1', this version"),
        ({"sha256": "0" * 64}, r"do not have the checksum"),
        ({"model": None}, r"model is NoneType, not a HamiltonianModel"),
        (
            {"model": QHNET | {"backbone": QHNET["backbone"] | {"channels": 5}}},
            r"another architecture \(other shape",
        ),
        (
            {"model": QHNET | {"backbone": QHNET["backbone"] | {"layers": 4}}},
            r"another architecture \(missing",
        ),
    ],
)
def test_records_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = model_file(tmp_path / "bad.safetensors", **changes)
    with pytest.raises(CheckpointError, match=rf"bad\.safetensors.*{message}"):
        tracegrad.load_model(path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, r"its metadata have no entry 'tracegrad'.*tracegrad export"),
        ({"format": "pt"}, r"have no entry 'tracegrad'"),
        ({"tracegrad": "{"}, r"are no JSON"),
        ({"tracegrad": "[" * 100_000}, r"are no JSON"),
        ({"tracegrad": "[1]"}, r"are no record of a network"),
        ({"tracegrad": "{}"}, r"are no record of a network"),
        ({"tracegrad": '{"format": 1}'}, r"holds no settings of a network"),
    ],
)
def test_safetensors_files_of_others(tmp_path: Path, metadata: dict[str, str] | None, message: str) -> None:
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors", metadata)
    with pytest.raises(CheckpointError, match=rf"other\.safetensors: .*{message}"):
        tracegrad.load_model(tmp_path / "other.safetensors")


def test_damaged_model_files(tmp_path: Path) -> None:
    whole = model_file(tmp_path / "whole.safetensors").read_bytes()
    path = tmp_path / "bad.safetensors"
    for content in (b"", whole[:6], whole[:500], whole[:-1], whole + b"x", b"PK\x03\x04" + whole):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"bad\.safetensors: damaged, or no safetensors file"):
            tracegrad.load_model(path)
    path.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
    with pytest.raises(CheckpointError, match=r"bad\.safetensors: the tensors do not have the checksum"):
        tracegrad.load_model(path)


@pytest.mark.parametrize("shells", [{42: "s3p2d2"}, (1, 2), float("nan"), Path("x")])
def test_settings_that_json_would_change_are_not_written(tmp_path: Path, shells: Any) -> None:
    with pytest.raises(CheckpointError, match=r"not plain enough for JSON"):
        model_file(tmp_path / "model.safetensors", QHNET | {"shells": shells})
    assert not list(tmp_path.iterdir())


def test_networks_of_crystals(tmp_path: Path) -> None:
    model = write_run(tmp_path, DEEPH_E3)
    found = tracegrad.load_model(tmp_path)
    assert found.basis == model.basis
    assert found.backbone.periodic


def test_importing_the_package_is_fast_and_loads_nothing_else() -> None:
    code = "import sys, tracegrad; assert not {'torch', 'numpy'} & sys.modules.keys(); tracegrad.__version__"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'load_modell'"):
        _ = tracegrad.load_modell
