"""Predicted Hamiltonians of crystals on the disk: from folders, from files with a cell alone, with an estimate."""

import re
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import write

from experiments.configuration import composed, plain
from experiments.predict import predict
from experiments.runs import train
from tests.experiments.test_train_crystals import SMALL
from tracegrad import load_model
from tracegrad.data.crystals import CrystalDatabase
from tracegrad.data.datamodule import database_path
from tracegrad.data.deeph import read_structure, write_structure
from tracegrad.data.structure import Structure
from tracegrad.errors import ConfigError, DataError
from tracegrad.estimate import estimate


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "tracegrad_seed0"
    config = composed("train", [*SMALL, f"run_dir={directory}", "trainer.max_steps=2", "test=false"])
    train(config, plain(config))
    return directory


@pytest.fixture(scope="module")
def bilayer() -> Structure:
    return CrystalDatabase(database_path("embedded:demo_crystals.h5"), include="light_bilayer_*")[3]


def run(*settings: str) -> None:
    predict(plain(composed("predict", list(settings))))


def test_a_folder(
    trained: Path, bilayer: Structure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_structure(bilayer, tmp_path / "given")
    output = tmp_path / "predicted"
    run(f"checkpoint={trained}", f"structure={tmp_path / 'given'}", f"output={output}", "edge_chunk=100")
    printed = capsys.readouterr().out
    assert "8 atoms, 458 blocks, without spin" in printed
    assert re.search(r"estimate: (less than|about) \d+ s", printed)
    assert "no overlaps, so no bands" in printed
    found = read_structure(output)
    assert np.array_equal(found.edges, bilayer.edges)
    model = load_model(trained)
    model.backbone.hermitian = True
    geometry = (bilayer.numbers, bilayer.positions, bilayer.lattice, bilayer.edges)
    for block, expected in zip(found.blocks("hamiltonian"), model.hamiltonian(*geometry), strict=True):
        np.testing.assert_allclose(block, expected, atol=1e-4)  # float32, in chunks
    with pytest.raises(DataError, match=r"exists and holds .* overwrite=true"):
        run("checkpoint=nowhere", f"structure={tmp_path / 'given'}", f"output={output}")  # before any work
    run(f"checkpoint={trained}", f"structure={tmp_path / 'given'}", f"output={output}", "overwrite=true")


def test_a_file_with_a_cell_and_a_checkpoint_file(trained: Path, bilayer: Structure, tmp_path: Path) -> None:
    """The pairs follow from the radii of the orbitals; the order of the blocks is that of any structure."""
    atoms = Atoms(bilayer.numbers, positions=bilayer.positions, cell=bilayer.lattice, pbc=True)
    write(tmp_path / "given.xyz", atoms, format="extxyz")
    checkpoint = trained / "checkpoints" / "last.ckpt"
    run(f"checkpoint={checkpoint}", f"structure={tmp_path / 'given.xyz'}", f"output={tmp_path / 'predicted'}")
    assert np.array_equal(read_structure(tmp_path / "predicted").edges, bilayer.edges)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "neither a structure folder nor a file that ASE reads"),
        (Atoms("C2", positions=[[0, 0, 0], [1.4, 0, 0]]), "the cell has 0 vectors"),
        (Atoms("Si", cell=[3, 3, 3], pbc=True), r"\[14\] have no entry"),
        (
            Atoms("C", cell=[[1, 0, 0], [2, 0, 0], [0, 0, 1]], pbc=True),
            r"given\.xyz: the lattice .* no volume",
        ),
        (
            Atoms("C2", positions=[[0, 0, 0], [0.01, 0, 0]], cell=[5, 5, 5], pbc=True),
            r"given\.xyz: atoms 1 and 2 \(counted from 1\) are 0\.01 angstrom apart",
        ),
    ],
)
def test_structures_that_cannot_be_predicted(trained: Path, tmp_path: Path, content, message) -> None:
    path = tmp_path / "given.xyz"
    if content is None:
        path.write_text("nothing")
    else:
        write(path, content, format="extxyz")
    with pytest.raises(DataError, match=message):
        run(f"checkpoint={trained}", f"structure={path}", f"output={tmp_path / 'predicted'}")
    assert not (tmp_path / "predicted").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("edge_chunk=0", "edge_chunk is 0; give a whole number of at least 1, or null"),
        ("threads=-1", "threads is -1"),
        ("device=nowhere", "device=nowhere cannot be used"),
        ("reference=true", "is a DeepH-E3 for crystals; reference and frame are for molecules"),
        ("frame=0", "reference and frame are for molecules"),
    ],
)
def test_impossible_settings(trained: Path, tmp_path: Path, setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(f"checkpoint={trained}", "structure=x", f"output={tmp_path / 'predicted'}", setting)


def test_the_estimate_grows_with_the_cell_and_with_the_chunk(trained: Path, bilayer: Structure) -> None:
    model = load_model(trained)
    whole = estimate(model, bilayer)
    model.backbone.edge_chunk = 50
    assert 0 < estimate(model, bilayer).bytes < whole.bytes
    assert whole.seconds > 0
    assert " MB" in str(whole)
