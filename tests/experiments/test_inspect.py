import json
import shutil

import pytest
import torch

from experiments.inspect import main
from experiments.inspecting.step_cost import step_cost
from experiments.settings.configuration import composed
from tests import forked
from tests.crystals import MOS2, labelled_graph
from tests.data.crystals.aims_files import write_calculation
from tests.data.crystals.orbital_files import mos2
from tests.data.molecules import files
from tests.experiments.in_process import caller
from tests.physics.exports.conftest import structure
from tracegrad.data.crystal_files.deeph import write_structure
from tracegrad.hamiltonian.basis import OrbitalBasis


@pytest.fixture
def inspect(monkeypatch, capsys):
    return caller("inspect", main, monkeypatch, capsys)


@pytest.fixture
def crystals(tmp_path):
    for n in range(3):
        write_structure(structure(spinful=True), tmp_path / "my data" / f"MoS2_{n}")
    return tmp_path / "my data"


def test_crystals(tmp_path, crystals, inspect):
    output = tmp_path / "mine"
    text = inspect(f"data={crystals}", "include=[MoS2_*]", f"output={output}", "seconds=0")
    assert f"{crystals}: 3 crystals of 3 atoms, S s1p1, Mo s2p1d1 with spin-orbit coupling; read: 3" in text
    assert "highest degree 5" in text
    assert text.endswith(f"  tracegrad train --config-dir {output} experiment=my_data\n")
    assert sorted(path.name for path in output.iterdir()) == ["experiment", "hoppings.png", "inspect.json"]
    summary = json.loads((output / "inspect.json").read_text())
    assert summary["structures"] == 3
    assert summary["shells"] == {"S": "s1p1", "Mo": "s2p1d1"}
    assert summary["step"] is None
    done = forked.run("experiments.train", "--config-dir", str(output), "experiment=my_data", "--cfg", "job")
    assert done.returncode == 0, done.stderr
    for line in (
        "name: my_data",
        "  - S-s1p1",
        "  spinful: true",
        f"  path: {crystals}",
        "  - MoS2_*",
        "    irreps: 64x0e+32x1o+16x2e+8x3o+8x4e",
    ):
        assert line in done.stdout.splitlines()
    again = inspect(f"data={crystals}", f"output={output}", "seconds=0")
    assert f"error: {output}/experiment/my_data.yaml: exists; choose another output" in again


@pytest.mark.parametrize("converted", [False, True], ids=["calculations", "folders"])
def test_both_spins(tmp_path, inspect, converted):
    for seed in range(3):
        up, down = mos2(seed=seed), mos2(seed=seed)
        if converted:
            write_structure(up, tmp_path / "iron" / f"{seed}_up")
            write_structure(down, tmp_path / "iron" / f"{seed}_down")
        else:
            write_calculation(up, tmp_path / "iron" / f"{seed}", down=down)
    output = tmp_path / "mine"
    text = inspect(f"data={tmp_path / 'iron'}", f"output={output}", "seconds=0")
    assert "Mo s2p1d1, both spins of 3 collinear calculations; read: 6" in text
    assert "spin        data.spin=both basis.collinear=true: one network" in text
    recipe = (output / "experiment" / "iron.yaml").read_text()
    assert "  collinear: true\n" in recipe
    assert "  spin: both  #" in recipe
    assert "  sizes: [1, 1, 1]  #" in recipe
    folder = f"hydra.searchpath=[file://{output}]"
    config = composed("train", ["experiment=iron", folder])
    assert config.data.spin == "both"
    assert config.model.backbone.basis.collinear
    if converted:
        shutil.rmtree(tmp_path / "iron" / "1_down")
        assert "1_down is missing; spin=both needs both spins" in inspect(f"data={tmp_path / 'iron'}")


def test_molecules_and_a_name_that_is_taken(tmp_path, inspect):
    words = ["data=embedded:demo_stable.db", "samples=5", "seconds=0"]
    text = inspect(*words, f"output={tmp_path}")
    assert "QHNet + TraceGrad as in the QH9 benchmark" in text
    recipe = (tmp_path / "experiment" / "demo_stable.yaml").read_text()
    assert "  path: embedded:demo_stable.db\n  database: custom\n  split: random\n" in recipe
    text = inspect("data=embedded:demo_crystals.h5", "include=[light_bilayer_*]", "seconds=0")
    assert "start, recipe demo_crystals_start" in text  # demo_crystals is one of conf/experiment


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=/nowhere"], "error: /nowhere: no such file or folder"),
        (["data=embedded:demo_stable.db", "samples=1"], "error: samples=1, seed=0: at least 2"),
        (["data=embedded:demo_stable.db", "samples=1.5"], "error: samples must be a whole number"),
        (["samples=3"], "error: source is needed"),
    ],
)
def test_bad_input(words, message, inspect):
    error = inspect(*words)
    assert error.count("\n") == 1
    assert error.startswith(message.partition(" must")[0])


def test_too_few_structures_for_a_training(tmp_path, inspect, capsys):
    write_structure(structure(), tmp_path / "data" / "only")
    assert "has 1 structures, and train, val and test need one each" in inspect(f"data={tmp_path / 'data'}")


def test_cost_of_a_step():
    words = ["experiment=demo_crystals", "tracegrad=none", "basis.shells=[Mo-s2p1d1,S-s1p1]"]
    config = composed("train", words)
    basis = OrbitalBasis.openmx(["Mo-s2p1d1", "S-s1p1"])
    graphs = [labelled_graph(MOS2, basis, seed, torch.float32) for seed in range(2)]
    done = step_cost(config, [graphs[:1], graphs], 60.0)
    assert done.tried
    assert done.seconds > 0
    assert done.bytes > 1e7
    # Two batches are tried in any case. Weights and optimizer are no memory of pairs: eight structures take little.
    estimated = step_cost(config, [graphs[:1], graphs, 4 * graphs], 0.0)
    assert not estimated.tried
    assert estimated.seconds > 0
    assert estimated.bytes < 1.5 * done.bytes
    assert estimated.parameters == done.parameters > 10_000


def test_other_databases_of_molecules(tmp_path, inspect):
    sample = files.sample([8, 1, 1], 0)
    md17 = files.write_md17(tmp_path / "water.db", [sample] * 5)
    nabladft = files.write_nabladft(
        tmp_path / "bromide.db", [files.sample([35, 1], 0, files.OMEGA_B97X_D)] * 5
    )
    for database, group, division in (
        (md17, "md17", "sizes: [0.6, 0.2]"),
        (nabladft, "nabladft", "fractions: [0.6, 0.2, 0.2]"),
    ):
        inspect(f"data={database}", f"output={tmp_path / group}", "samples=2", "seconds=0")
        recipe = (tmp_path / group / "experiment" / f"{database.stem}.yaml").read_text()
        assert f"  - override /data: {group}\n" in recipe
        assert f"  {division}  #" in recipe
