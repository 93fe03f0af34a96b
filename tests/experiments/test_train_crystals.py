"""Real runs on the embedded crystals: separate tests of twisted structures, spin, resuming, published recipes."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.report import make_report
from experiments.settings.configuration import composed, plain
from experiments.training.runs import train
from tests import forked
from tests.data.crystals.abacus_files import write_run
from tests.data.crystals.test_conversion_checks import crystal
from tests.experiments.processes import PLAIN
from tracegrad import load_model
from tracegrad.data.crystal_files.database import CrystalDatabase
from tracegrad.data.loading.datamodule import database_path
from tracegrad.weights.checkpoint import load_checkpoint

SMALL = [
    "experiment=demo_crystals",
    "data.sizes=[4,2,2]",
    "model.backbone.irreps=4x0e+2x1o+2x2e",
    "model.backbone.embed=4",
    "model.backbone.blocks=2",
    "tracegrad.channels=8",
    "tracegrad.hidden=8",
    "callbacks=deeph_e3",
    "trainer.max_steps=8",
    "trainer.check_val_every_n_epoch=1",
    "trainer.log_every_n_steps=1",
    "logger.wandb.mode=disabled",
    *PLAIN,
]
FIGURES = ["callbacks.test_report.figure_samples=2"]
DEEPH2 = ["model=deeph2_small", "model.backbone.irreps=4x0e+2x1o+2x2e+2x3o+2x4e"]
BISMUTHENE = [
    "basis.shells=[Bi-s3p2d2]",
    "basis.spinful=true",
    "data.include=[light_bismuthene_*]",
    "data.twisted=[]",
    "data.sizes=[1,1,1]",
    "model.backbone.time_reversal=true",
    "model.backbone.hermitian=true",
]


def run(directory: Path, *overrides: str) -> None:
    done = forked.run("experiments.train", *SMALL, f"run_dir={directory}", *overrides)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "none_seed0"
    run(directory, "tracegrad=none", *FIGURES)
    return directory


def results(directory: Path) -> dict:
    return json.loads((directory / "results.json").read_text())


def test_twisted_structures_are_tested_apart(finished: Path) -> None:
    """MAE recomputed structure by structure from the blocks that `hamiltonian` returns."""
    model = load_model(finished)
    database = CrystalDatabase(
        database_path("embedded:demo_crystals.h5"), include=["light_bilayer_*", "light_twisted_*"]
    )
    with (finished / "test_samples.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["subset"] for row in rows] == ["", "", "twisted", "twisted"]
    for row in rows:
        structure = database[int(row["row"])]
        assert row["name"] == structure.name
        assert row["name"].startswith("light_twisted" if row["subset"] else "light_bilayer")
        predicted = model.hamiltonian(
            structure.numbers, structure.positions, structure.lattice, structure.edges
        )
        pairs = zip(predicted, structure.blocks("hamiltonian"), strict=True)
        error = np.concatenate([np.abs(block - true).ravel() for block, true in pairs])
        assert float(row["h_mae"]) == pytest.approx(error.mean() * 1000, rel=1e-4)
    found = results(finished)
    assert found["crystal"] is True
    assert found["label"] == "DeepH-E3"
    for subset in ("", "twisted"):
        mean = np.mean([float(row["h_mae"]) for row in rows if row["subset"] == subset])
        ending = f"/{subset}" if subset else ""
        assert found["metrics"][f"test/h_mae{ending}"] == pytest.approx(mean, rel=1e-9)
        assert found["trivial"][f"test/h_mae{ending}"] > 0
    assert {path.name for path in (finished / "figures").iterdir()} >= {
        *("block_mae.png", "block_mae-twisted.png", "elements-twisted.png", "hamiltonian-twisted.png"),
    }


def test_evaluation_of_the_twisted_structures_alone(finished: Path, tmp_path: Path) -> None:
    command = ["experiments.evaluate", f"run={finished}", f"output={tmp_path}"]
    done = forked.run(*command, "part=twisted")
    assert done.returncode == 0, done.stderr
    assert "DeepH-E3" in done.stdout
    again = json.loads((tmp_path / "evaluation.json").read_text())["metrics"]
    assert again["test/h_mae"] == pytest.approx(results(finished)["metrics"]["test/h_mae/twisted"], rel=1e-6)
    wrong = forked.run(*command, "part=twist")
    assert wrong.returncode == 1
    assert "choose one of ['train', 'val', 'test', 'twisted']" in wrong.stderr


@pytest.mark.slow
@pytest.mark.parametrize("network", [[], DEEPH2], ids=["DeepH-E3", "DeepH-2-style"])
def test_training_goes_on_from_the_last_epoch(network: list[str], tmp_path: Path) -> None:
    """All in this process, because rounding may differ between processes."""
    for name, steps in (("parts", 4), ("parts", 8), ("whole", 8)):  # 4 structures: 4 steps an epoch
        settings = [*SMALL, *network, f"run_dir={tmp_path / name}", "tracegrad=none", "test=false"]
        config = composed("train", settings)
        values = plain(config)
        config.trainer.max_steps = steps
        train(config, values)
    ended, straight = (
        load_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("parts", "whole")
    )
    assert ended["global_step"] == straight["global_step"] == 8
    for name, tensor in straight["state_dict"].items():
        assert torch.equal(ended["state_dict"][name], tensor), name


@pytest.mark.slow
def test_spin_orbit_coupling(tmp_path: Path) -> None:
    """Complex Hamiltonians in training, metrics and files, for an ablation of two arms with its report."""
    for arm, more in (("none", []), ("tracegrad", FIGURES)):
        run(tmp_path / f"{arm}_seed0", *BISMUTHENE, f"tracegrad={arm}", "trainer.max_steps=2", *more)
    model = load_model(tmp_path / "tracegrad_seed0")
    structure = CrystalDatabase(database_path("embedded:demo_crystals.h5"), include="light_bismuthene_*")[0]
    geometry = (structure.numbers, structure.positions, structure.lattice, structure.edges)
    for block, true in zip(model.hamiltonian(*geometry), structure.blocks("hamiltonian"), strict=True):
        assert block.shape == true.shape == (38, 38)
        np.testing.assert_allclose(block[:19, 19:], -block[19:, :19].conj(), atol=1e-5)  # time reversal
    with (tmp_path / "tracegrad_seed0" / "block_mae.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert len(rows) == len(header) - 1 == 14
    report = make_report(tmp_path)
    assert {path.name for path in report.files} >= {"table.md", "challenge.json", "block_mae.png"}
    (table,) = report.tables
    assert table.crystal
    assert [row.arm for row in table.arms] == ["none", "tracegrad"]
    assert all(
        {"test/h_mae", "test/h_mae_cha_s", "test/h_mae_cha_b"} <= row.cells.keys() for row in table.arms
    )


@pytest.mark.slow
def test_a_spin_channel_of_abacus(tmp_path: Path) -> None:
    """Trained from the output itself; H of spin down is small, that of spin up is not."""
    for seed in range(3):
        up = crystal(seed=seed)
        write_run(
            tmp_path / "runs" / f"{seed}", up, replace(up, hamiltonian=1e-3 * up.hamiltonian), layout="newer"
        )
    options = ["basis.shells=[Mo-s2p1d1,S-s1p1]", f"data.path={tmp_path / 'runs'}", "data.include=['*']"]
    options += ["data.twisted=[]", "data.sizes=[1,1,1]", "data.spin=down"]
    run(tmp_path / "run", *options, "tracegrad=none", "trainer.max_steps=2")
    assert 0 < results(tmp_path / "run")["trivial"]["test/h_mae"] < 1
