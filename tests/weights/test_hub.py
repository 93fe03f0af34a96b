"""Models by name: downloads from a local server and from the cache, and files that are sent there."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import tracegrad
from experiments.predict import networks
from tests.checkpoints import QHNET, write_run
from tests.experiments.test_export import finished_run, run
from tests.molecules import WATER
from tests.serving import answering
from tests.weights.hub_server import TOKEN, HubServer
from tracegrad.errors import CheckpointError
from tracegrad.extras import MissingExtraError
from tracegrad.training.warm_start import start_from
from tracegrad.weights.construct import construct
from tracegrad.weights.hub import HubError, HubName, check_push
from tracegrad.weights.model_file import write_model_file

constants = pytest.importorskip("huggingface_hub.constants")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub with user/water, and an empty cache of this user, who has not logged in."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    model = write_run(tmp_path / "run")
    write_model_file(tmp_path / "water.safetensors", model.state_dict(), {"model": QHNET})
    content = (tmp_path / "water.safetensors").read_bytes()
    with answering(HubServer()) as server:
        # As HF_ENDPOINT, which is read when huggingface_hub is imported.
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        template = f"{server.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        server.repositories["user/water"] = {"model.safetensors": content, "other.safetensors": content}
        yield server


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf://user/name", ("user/name", None, "model.safetensors")),
        ("hf://user/name@v1.2", ("user/name", "v1.2", "model.safetensors")),
        ("hf://a-b/c_d.e/f.safetensors", ("a-b/c_d.e", None, "f.safetensors")),
        ("hf://user/name@v1/f.safetensors", ("user/name", "v1", "f.safetensors")),
        ("hf://user/name@refs/pr/1/f.safetensors", ("user/name", "refs/pr/1", "f.safetensors")),
    ],
)
def test_names(text: str, expected: tuple) -> None:
    found = HubName.parse(text)
    assert (found.repository, found.revision, found.file) == expected


@pytest.mark.parametrize(
    "text",
    ["hf://", "hf://name", "hf://user/name/model.ckpt", "hf://user/../name", "hf:///etc/x", "hf://u/n@"],
)
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(HubError, match="is no name of a model; write hf://user/name"):
        tracegrad.load_model(text)


def test_a_model_is_loaded_by_name_and_without_a_network(
    hub: HubServer, tmp_path: Path, basis, monkeypatch
) -> None:
    expected = tracegrad.load_model(tmp_path / "run").hamiltonian(*WATER)
    for name in ("hf://user/water", "hf://user/water@v1", "hf://user/water/other.safetensors"):
        assert torch.equal(tracegrad.load_model(name).hamiltonian(*WATER), expected)
    assert networks("hf://user/water") == ["hf://user/water"]
    both = tracegrad.load_ensemble(["hf://user/water", write_run(tmp_path / "b", seed=1) and tmp_path / "b"])
    assert len(both.members) == 2
    fresh = construct(QHNET, "settings").double()
    assert start_from(fresh, "hf://user/water").file.name == "model.safetensors"
    assert torch.equal(fresh.eval().hamiltonian(*WATER), expected)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert torch.equal(tracegrad.load_model("hf://user/water").hamiltonian(*WATER), expected)
    assert not hub.requests
    with pytest.raises(HubError, match="hf://user/new: is not in the cache, and the hub cannot be reached"):
        tracegrad.load_model("hf://user/new")


def test_models_that_cannot_be_had(hub: HubServer) -> None:
    hub.repositories["user/text"] = {"model.safetensors": b"nothing of the kind"}
    for name, message in (
        ("hf://user/fire", "hf://user/fire: no such repository, or a private one of others"),
        ("hf://user/water@v9", "hf://user/water@v9: the repository has no such revision"),
        ("hf://user/water/fire.safetensors", "the repository has no such file; name another one"),
    ):
        with pytest.raises(HubError, match=message):
            tracegrad.load_model(name)
    with pytest.raises(CheckpointError, match="damaged, or no safetensors file"):
        tracegrad.load_model("hf://user/text")


def test_a_model_is_sent_and_loaded_again(hub: HubServer, tmp_path: Path, monkeypatch, capsys) -> None:
    model = finished_run(tmp_path / "sent")
    output = tmp_path / "file.safetensors"
    settings = (f"run={tmp_path / 'sent'}", f"output={output}", "push=user/mine")
    with pytest.raises(HubError, match="user/mine: nobody has logged in; run: hf auth login"):
        run(*settings)
    assert not output.exists()  # before any work
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    run(*settings, "private=true")
    assert "load_model('hf://user/mine') loads it" in capsys.readouterr().out
    sent = hub.repositories["user/mine"]
    assert sent.keys() == {"model.safetensors", "README.md"}
    assert sent["README.md"] == output.with_suffix(".md").read_bytes()
    assert hub.private == {"user/mine"}
    found = tracegrad.load_model("hf://user/mine")
    assert torch.equal(found.hamiltonian(*WATER), model.hamiltonian(*WATER))
    with pytest.raises(
        HubError, match=r"other/mine: refused by the hub \(status 403\); log in by hf auth login"
    ):
        run(*settings[:2], "overwrite=true", "push=other/mine")
    with pytest.raises(HubError, match="push=hf://user/mine: is no name of a repository; write user/name"):
        run(*settings[:2], "overwrite=true", "push=hf://user/mine")


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setattr("tracegrad.extras.find_spec", lambda name: None)
    for use in (lambda: tracegrad.load_model("hf://user/water"), lambda: check_push("user/name")):
        with pytest.raises(MissingExtraError, match=r"pip install 'tracegrad\[hub\]'"):
            use()
