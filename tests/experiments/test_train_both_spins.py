"""A network for both spins: trained on two processes, resumed, exported."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.export import export
from experiments.settings.configuration import composed, plain
from experiments.training.runs import train
from tests.data.crystals.orbital_files import mos2
from tests.data.loading.test_both_spins import of_spin
from tests.experiments.processes import DOUBLE, PLAIN, finished
from tests.experiments.test_resume import assert_same, content
from tracegrad import load_model
from tracegrad.data.crystal_files.deeph import write_structure
from tracegrad.hamiltonian.basis import SPINS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Of three steps an epoch; a step of two samples has one calculation with both spins, or two with one each."""
    folder = tmp_path_factory.mktemp("structures")
    for seed in range(6):
        for spin in SPINS:
            write_structure(of_spin(mos2(seed=seed), spin), folder / f"m{seed}_{spin}")
    return [
        *("data=deeph", "basis=openmx", "model=deeph_e3", "loss=deeph", "optim=deeph_e3", *DOUBLE, *PLAIN),
        *("basis.shells=[Mo-s2p1d1,S-s1p1]", "basis.collinear=true", "data.spin=both", "threads=1"),
        *(f"data.path={folder}", "data.sizes=[3,1,2]", "data.batch_size=2", "data.num_workers=0"),
        *("model.backbone.irreps=4x0e+2x1o+2x2e", "model.backbone.embed=4", "model.backbone.blocks=1"),
        *("tracegrad.channels=8", "tracegrad.hidden=8", "trainer.max_steps=6", "trainer.log_every_n_steps=1"),
        *("trainer.check_val_every_n_epoch=1", "callbacks.last.steps=1", "logger.wandb.mode=disabled"),
    ]


@pytest.fixture(scope="module")
def whole(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run on one process."""
    directory = tmp_path_factory.mktemp("runs") / "whole"
    finished(directory, settings=settings)
    return directory


def test_a_training_goes_on_from_the_last_epoch(settings, tmp_path):
    """All in this process, because rounding may differ between processes."""
    for name, steps in (("parts", 3), ("parts", 6), ("whole", 6)):
        config = composed("train", [*settings, f"run_dir={tmp_path / name}", "test=false"])
        values = plain(config)
        config.trainer.max_steps = steps
        train(config, values)
    ended, straight = (content(tmp_path / name) for name in ("parts", "whole"))
    assert ended["global_step"] == straight["global_step"] == 6
    for part in ("state_dict", "optimizer_states"):
        assert_same(straight[part], ended[part], part)


def test_two_processes_compute_the_same_as_one(settings, whole, tmp_path):
    finished(tmp_path, settings=settings, ranks=2)
    one, two = (content(run)["state_dict"] for run in (whole, tmp_path))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-8, atol=1e-11, msg=name)
    one, two = (json.loads((run / "results.json").read_text())["metrics"] for run in (whole, tmp_path))
    for name in ("test/h_mae", "test/h_mae/up", "test/h_mae/down"):
        assert two[name] == pytest.approx(one[name], rel=1e-9)


def test_the_exported_network_predicts_both_spins(whole, tmp_path):
    path = export(plain(composed("export", [f"run={whole}", f"output={tmp_path / 'both.safetensors'}"])))
    structure = mos2()
    geometry = (structure.numbers, structure.positions, structure.lattice, structure.edges)
    trained, exported = load_model(whole), load_model(path)
    blocks = {}
    for spin in SPINS:
        blocks[spin] = np.concatenate([b.ravel() for b in exported.hamiltonian(*geometry, spin=spin)])
        expected = np.concatenate([b.ravel() for b in trained.hamiltonian(*geometry, spin=spin)])
        assert np.array_equal(blocks[spin], expected)
    assert np.abs(blocks["up"] - blocks["down"]).max() > 1e-3
    card = path.with_suffix(".md").read_text(encoding="utf-8")
    assert "there is an H for each spin" in card
