"""Recipes of molecules with a network of crystals: trained, killed and resumed, tested, exported; and the reverse."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from experiments.export import export
from experiments.settings.configuration import composed, plain
from tests.experiments.processes import PLAIN, SAME_ROUNDING, finished, train
from tests.experiments.test_resume import assert_same, content
from tracegrad import load_model
from tracegrad.metrics.functional.orbitals import NAMES

SMALL = [
    "experiment=demo",
    "model=deeph_e3_small",
    "model.backbone.irreps=4x0e+3x1o+2x2e+2x3o",
    "model.backbone.embed=4",
    "model.backbone.blocks=2",
    "data.train_size=16",
    "data.fractions=[.8,.02,.18]",
    "tracegrad.channels=8",
    "tracegrad.hidden=8",
    "trainer.max_steps=5",
    "callbacks.last.steps=2",
    "callbacks.acceleration.molecules=1",
    "threads=1",
    "logger.wandb.mode=disabled",
    *PLAIN,
]


@pytest.mark.slow
def test_a_network_of_crystals_on_molecules(tmp_path: Path) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    finished(straight, settings=SMALL, environment=SAME_ROUNDING)
    (done,) = train(killed, "test=false", stop_after=3, settings=SMALL, environment=SAME_ROUNDING)
    assert done.returncode == -signal.SIGKILL
    assert "resuming from" in finished(killed, "test=false", settings=SMALL, environment=SAME_ROUNDING)
    assert_same(content(straight), content(killed))

    results = json.loads((straight / "results.json").read_text())
    assert (results["label"], results["crystal"]) == ("DeepH-E3+TraceGrad", False)
    of_molecules = {*NAMES, "h_mae_diag", "h_mae_nondiag", "t_mae", "achieved_ratio_1e"}
    assert {f"test/{name}" for name in of_molecules} <= results["metrics"].keys()
    assert (straight / "figures" / "scf.png").exists()

    settings = composed("export", [f"run={straight}", f"output={tmp_path / 'model.safetensors'}"])
    model = load_model(export(plain(settings)))
    assert "Hamiltonian H of molecules" in (tmp_path / "model.md").read_text()
    h = model.hamiltonian(
        np.array([8, 1, 1]), np.array([[0.0, 0.0, 0.0], [0.0, 0.76, 0.59], [0.0, -0.76, 0.59]])
    )
    assert h.shape == (24, 24)
    assert torch.equal(h, h.T)


@pytest.mark.parametrize("recipe", ["qs", "qd", "demo"])
def test_recipes_of_molecules_with_a_network_of_crystals(recipe: str) -> None:
    config = composed("train", [f"experiment={recipe}", "model=deeph_e3_small"])
    model = instantiate(config.model)
    assert model.backbone.label == "DeepH-E3"
    assert model.basis.unit == "hartree"


def test_a_network_of_molecules_on_crystals_is_named() -> None:
    config = composed("train", ["experiment=demo_crystals", "model=qhnet_small"])
    message = (
        r"ConfigError\('QHNet predicts only molecules, and the basis \(C s2p1d1 in the order of openmx\)"
    )
    with pytest.raises(InstantiationException, match=message):  # commands print the error inside
        instantiate(config.model)
