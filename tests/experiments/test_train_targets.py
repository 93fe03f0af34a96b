"""Runs whose network corrects an H0, or whose loss knows the overlap: resumed, tested, exported and used."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.export import export
from experiments.settings.configuration import composed, plain
from tests import forked
from tests.experiments.processes import PLAIN, SAME_ROUNDING, finished, train
from tests.experiments.test_resume import assert_same, content
from tests.experiments.test_train_crystals import SMALL as CRYSTALS
from tests.physics.overlaps.gaussian_files import GaussianShell, write_pao
from tracegrad import load_model
from tracegrad.data.loading.datamodule import database_path
from tracegrad.data.qh9.database import QH9Database
from tracegrad.physics.molecules.h0 import molecule_h0
from tracegrad.weights.checkpoint import load_checkpoint

MOLECULES = [
    "experiment=demo",
    "model.backbone.channels=8",
    "model.h0=core",
    "loss=qh9_states",
    "loss.shift=true",
    "data.train_size=16",
    "data.num_workers=1",
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
def test_molecules(tmp_path: Path) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    finished(straight, settings=MOLECULES, environment=SAME_ROUNDING)
    (done,) = train(killed, "test=false", stop_after=3, settings=MOLECULES, environment=SAME_ROUNDING)
    assert done.returncode == -signal.SIGKILL
    assert "resuming from" in finished(killed, "test=false", settings=MOLECULES, environment=SAME_ROUNDING)
    assert_same(content(straight), content(killed))
    assert "test/loss_states" in json.loads((straight / "results.json").read_text())["metrics"]

    settings = composed("export", [f"run={straight}", f"output={tmp_path / 'model.safetensors'}"])
    model = load_model(export(plain(settings)))
    assert model.h0 == "core"
    molecule = QH9Database(database_path("embedded:demo_dynamic.db"))[0]
    h = model.hamiltonian(molecule.numbers, molecule.positions)
    h0 = torch.tensor(molecule_h0("core", molecule.numbers, molecule.positions), dtype=h.dtype)
    model.h0 = None
    correction = model.hamiltonian(molecule.numbers, molecule.positions)
    torch.testing.assert_close(h, h0 + correction, rtol=0, atol=1e-5)

    wrong = forked.run(
        "experiments.train", *MOLECULES, f"run_dir={tmp_path / 'wrong'}", "model.h0=minao-b3lyp5"
    )
    assert wrong.returncode == 1
    assert "the data are of b3lyp; set model.h0=minao-b3lyp" in wrong.stderr
    other = forked.run(
        "experiments.train",
        *MOLECULES,
        f"run_dir={tmp_path / 'other'}",
        "model.h0=null",
        f"init_from={straight}",
    )
    assert other.returncode == 1
    assert "predicts H - H0 with H0 = core" in other.stderr


@pytest.fixture(scope="module")
def basis_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Functions that end where those of the embedded bilayers do."""
    folder = tmp_path_factory.mktemp("basis")
    shells = [GaussianShell(0, 0.6), GaussianShell(0, 2.0), GaussianShell(1, 0.7), GaussianShell(2, 0.9)]
    write_pao(folder, "C", shells, cutoff=5.0)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["deeph_states", "deeph_shifted"])
def test_crystals(loss: str, tmp_path: Path, basis_files: Path) -> None:
    settings = [*CRYSTALS, "trainer.max_steps=3", f"loss={loss}", f"run_dir={tmp_path / 'run'}"]
    done = forked.run("experiments.train", *settings)
    assert done.returncode == 1
    assert "no array 'overlap'" in done.stderr  # the embedded crystals have none
    done = forked.run("experiments.train", *settings, f"data.basis_files={basis_files}")
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "run" / "results.json").read_text())["metrics"]
    assert ("test/loss_states" in metrics) == (loss == "deeph_states")
    assert np.isfinite([value for value in metrics.values() if value is not None]).all()
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == 3
