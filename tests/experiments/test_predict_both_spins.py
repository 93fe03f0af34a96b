"""A network for both spins predicts two structure folders, and bands of both in one figure."""

import copy
import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from experiments.predict import predict
from experiments.settings.configuration import composed, plain
from tests import checkpoints
from tests.physics.bands.toys import graphene
from tracegrad import load_model
from tracegrad.data.crystal_files.deeph import read_structure, write_structure
from tracegrad.errors import DataError
from tracegrad.hamiltonian.basis import SPINS


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained DeepH-2-style network for s orbitals of carbon.

    The last layer norm of DeepH-E3 leaves nothing of a single channel on two sorts of edges.
    """
    settings = copy.deepcopy(checkpoints.DEEPH_E3)
    basis = settings["backbone"]["basis"] | {"shells": ["C6.0-s1"], "collinear": True}
    settings["backbone"] = {
        "_target_": "tracegrad.backbones.deeph2.DeepH2",
        "basis": basis,
        "irreps": "4x0e+2x1o",
        "blocks": 1,
        "logits": 2,
        "embed": 4,
        "radial": 4,
    }
    folder = tmp_path_factory.mktemp("run")
    checkpoints.write_run(folder, settings)
    return folder


def run(*settings: object) -> None:
    predict(plain(composed("predict", list(map(str, settings)))))


def test_folders_and_bands(run_directory, tmp_path, capsys):
    for spin in SPINS:
        write_structure(graphene(), tmp_path / f"toy_{spin}")
    output = tmp_path / "out" / "toy"
    mesh = ("k_mesh=[3,3,1]", "electrons=2", "fermi_level=count", "window=[-50,50]")
    # Either of the folders names both.
    given = (f"checkpoint={run_directory}", f"structure={tmp_path / 'toy_up'}", f"output={output}")
    run(*given, "derivative=true", "derivative_atoms=[2]", *mesh)
    printed = capsys.readouterr().out
    assert "toy_up: 2 atoms, 8 blocks, both spins" in printed
    model = load_model(run_directory)
    model.backbone.hermitian = True
    exact = copy.deepcopy(model).double()
    found = {}
    for spin in SPINS:
        structure = read_structure(output.with_name(f"toy_{spin}"), overlap=True)
        geometry = (structure.numbers, structure.positions, structure.lattice, structure.edges)
        expected = np.concatenate([block.ravel() for block in model.hamiltonian(*geometry, spin=spin)])
        assert np.abs(structure.hamiltonian - expected).max() < 1e-5  # the network is in float32
        found[spin] = structure.hamiltonian
        slopes = [block[1] for block in exact.hamiltonian_derivative(*geometry, spin=spin)]
        with h5py.File(output.with_name(f"toy_{spin}_derivative.h5")) as file:
            for axis in range(3):
                flat = np.concatenate([block[axis].ravel() for block in slopes])
                assert np.abs(file["hamiltonian_derivative"][0, axis] - flat).max() < 1e-10
    assert np.abs(found["up"] - found["down"]).max() > 1e-3
    summary = json.loads((output.with_name("toy_bands") / "bands.json").read_text())
    assert list(summary["spins"]) == list(SPINS)
    assert all("errors" in one["predicted"] for one in summary["spins"].values())
    assert summary["zone"]["counted"]["electrons"] == 2
    with pytest.raises(DataError, match=r"toy_up: exists and holds"):
        run(f"checkpoint={run_directory}", f"structure={tmp_path / 'toy'}", f"output={output}")
