"""Released networks tested by `experiments.evaluate`: numbers, files and errors."""

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.evaluate import evaluate
from experiments.settings.configuration import composed
from tests import checkpoints, forked
from tests.deeph_e3_folders import write_folder
from tests.weights.released.test_deeph_e3 import meta, plain_network, state
from tests.weights.released.test_loading import qhnet_state
from tracegrad.data.crystal_files.database import CrystalDatabase
from tracegrad.data.loading.datamodule import database_path
from tracegrad.data.qh9.database import QH9Database
from tracegrad.errors import CheckpointError, ConfigError
from tracegrad.reports.results import read_result
from tracegrad.units import MEV_PER_HARTREE
from tracegrad.weights.released import load_deeph_e3_folder, load_released_qhnet

# Two frames of each of the five molecules are tested.
FEW = ["data=demo", "data.fractions=[.1,.88,.02]", "accelerator=cpu"]


def run(*overrides: Any) -> None:
    evaluate(composed("evaluate", [str(override) for override in overrides]))


def rows_of(directory: Path) -> list[dict[str, str]]:
    with (directory / "test_samples.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def qhnet(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("released") / "QHNet-small.pt"
    torch.save({"state_dict": qhnet_state(), "eval": {}, "batch_idx": 7}, path)
    return path


@pytest.fixture(scope="module")
def carbon(tmp_path_factory) -> Path:
    """A small untrained network for the crystals that come with the package, in the released layout."""
    torch.manual_seed(1)
    info = {"spinful": False, "index_to_Z": [6], "orbital_types": [[0, 0, 1, 2]]}
    net = plain_network(info, {"num_block": 2}, {}, legacy=True).float()
    weights = {name: parameter.detach() for name, parameter in net.named_parameters()}
    return write_folder(tmp_path_factory.mktemp("released") / "carbon", weights, info, r_max=6.9)


@pytest.mark.slow
def test_qhnet_on_molecules(qhnet, tmp_path):
    """MAE recomputed molecule by molecule from the matrices of the database."""
    run(f"checkpoint={qhnet}", *FEW, f"output={tmp_path}", "data.dtype=float64", "seed=3")
    model = load_released_qhnet(qhnet_state())
    database = QH9Database(database_path("embedded:demo_dynamic.db"))
    rows = rows_of(tmp_path)
    assert len(rows) == 10
    errors = []
    for row in rows:
        molecule = database[int(row["row"])]
        h = model.hamiltonian(molecule.numbers, molecule.positions).numpy()
        errors.append(np.abs(h - molecule.hamiltonian).mean() * MEV_PER_HARTREE)
        assert float(row["h_mae"]) == pytest.approx(errors[-1], rel=1e-9)

    found = read_result(tmp_path / "evaluation.json")
    assert found.metrics["test/h_mae"] == pytest.approx(np.mean(errors), rel=1e-9)
    assert {"test/h_mae_diag", "test/eps_mae", "test/psi_cosine"} <= found.metrics.keys()
    assert (found.arm, found.label, found.backbone) == ("none", "QHNet", "QHNet")
    assert (found.checkpoint, found.seed, found.step) == ("QHNet-small", 3, 0)
    assert found.trivial["test/h_mae"] > 0
    content = json.loads((tmp_path / "evaluation.json").read_text())
    origin = json.loads((tmp_path / "provenance.json").read_text())
    identity = {"name": "QHNet-small", "file": "QHNet-small.pt", "sha256": sha256(qhnet)}
    assert content["released"] == origin["checkpoint"] == identity
    assert origin["data"]["basis"] == "def2-SVP"
    assert {path.name for path in tmp_path.iterdir()} >= {"block_mae.csv", "orbitals.csv"}
    figures = {path.name for path in (tmp_path / "figures").iterdir()}
    assert figures >= {"elements.png", "hamiltonian.png", "block_mae.png", "eps.png"}


@pytest.mark.slow
def test_deeph_e3_on_crystals(carbon, tmp_path, monkeypatch):
    """MAE recomputed structure by structure, separately for twisted ones; the basis is that of the network."""
    monkeypatch.chdir(tmp_path)
    run(f"checkpoint={carbon}", "data=demo_crystals", "edge_chunk=500", "batch_size=2", "accelerator=cpu")
    output = tmp_path / "runs" / "released" / "carbon_demo_test"
    model = load_deeph_e3_folder(carbon)
    include = ["light_bilayer_*", "light_twisted_*"]
    database = CrystalDatabase(database_path("embedded:demo_crystals.h5"), include=include)
    rows = rows_of(output)
    assert [row["subset"] for row in rows] == ["", "", "", "twisted", "twisted"]
    for row in rows:
        s = database[int(row["row"])]
        predicted = model.hamiltonian(s.numbers, s.positions, s.lattice, s.edges)
        pairs = zip(predicted, s.blocks("hamiltonian"), strict=True)
        error = np.concatenate([np.abs(block - true).ravel() for block, true in pairs])
        assert float(row["h_mae"]) == pytest.approx(error.mean() * 1000, rel=1e-4)
    found = read_result(output / "evaluation.json")
    mean = np.mean([float(row["h_mae"]) for row in rows if row["subset"]])
    assert found.metrics["test/h_mae/twisted"] == pytest.approx(mean, rel=1e-9)
    assert (found.label, found.crystal, found.checkpoint) == ("DeepH-E3", True, "carbon")
    origin = json.loads((output / "provenance.json").read_text())
    assert origin["checkpoint"]["sha256"] == sha256(carbon / "best_model.pkl")
    assert origin["data"]["basis"] == "C s2p1d1"
    assert (output / "figures" / "block_mae-twisted.png").exists()
    assert not list(carbon.rglob("executed"))


def test_networks_of_other_data_are_refused(qhnet, carbon, tmp_path):
    with pytest.raises(
        CheckpointError, match="holds a QHNet, a network of molecules, and the data are crystals"
    ):
        run(f"checkpoint={qhnet}", "data=demo_crystals")
    with pytest.raises(
        CheckpointError, match="holds a DeepH-E3, a network of crystals, and the data are mol"
    ):
        run(f"checkpoint={carbon}", "data=demo")
    other = write_folder(tmp_path / "mos2", state("small"), meta("small"))
    message = r"is for S s2p2d1, Mo s3p2d2, which does not fit the data: .*C has shells s2p1d1.* none for it$"
    with pytest.raises(CheckpointError, match=message):
        run(f"checkpoint={other}", "data=demo_crystals")
    bismuth = "data.include=[light_bismuthene_*]"
    with pytest.raises(CheckpointError, match=r"is for C s2p1d1, which .*: the Hamiltonians are spinful$"):
        run(f"checkpoint={carbon}", "data=demo_crystals", bismuth, "data.twisted=[]", "data.sizes=[.4,.3,.3]")


def test_run_and_released_checkpoints_are_kept_apart(qhnet, tmp_path):
    checkpoints.write_run(tmp_path / "run")
    own = tmp_path / "run" / "checkpoints" / "best.ckpt"
    with pytest.raises(ConfigError, match="run is needed, or a released checkpoint; give run=DIRECTORY, or"):
        run()
    with pytest.raises(ConfigError, match="run is needed"):
        run("checkpoint=last", "data=demo")
    with pytest.raises(ConfigError, match=r"QHNet-small\.pt needs data to be tested on; give data=NAME"):
        run(f"checkpoint={qhnet}")
    with pytest.raises(ConfigError, match="data= is for released checkpoints"):
        run(f"run={tmp_path / 'run'}", "data=demo")
    with pytest.raises(ConfigError, match=r"data\.path is needed"):
        run(f"checkpoint={qhnet}", "data=custom", "data.split=random")
    for released in (qhnet, tmp_path):
        with pytest.raises(
            CheckpointError, match=r"is not a checkpoint of a run of TraceGrad; .* leave out run="
        ):
            run(f"run={tmp_path / 'run'}", f"checkpoint={released}")
    with pytest.raises(CheckpointError, match=r"a checkpoint of TraceGrad itself.*run=DIRECTORY"):
        run(f"checkpoint={own}", "data=demo")
    with pytest.raises(CheckpointError, match="is a run directory of TraceGrad"):
        run(f"checkpoint={tmp_path / 'run'}", "data=demo")
    with pytest.raises(ConfigError, match=r"part is 'twisted'; choose one of \['train', 'val', 'test'\]"):
        run(f"checkpoint={qhnet}", *FEW, "part=twisted")


def test_the_command_answers_with_one_line(tmp_path):
    path = tmp_path / "unsafe.pt"
    torch.save({"state_dict": qhnet_state(), "place": Path("x")}, path)
    done = forked.run("experiments.evaluate", f"checkpoint={path}", "data=demo")
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"error: {path}: not loaded: it holds pathlib")
    assert line.endswith("save only its state_dict, with a program that you trust")
