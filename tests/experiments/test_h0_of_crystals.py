"""Networks of crystals that correct an H0 of the data: training, cache, tables and predictions, and bad data."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from experiments.predict import predict
from experiments.settings.configuration import composed, plain
from tests.experiments.test_train_crystals import run as train
from tracegrad import load_model
from tracegrad.data.crystal_files.database import CrystalDatabase
from tracegrad.data.crystal_files.deeph import read_structure, write_structure
from tracegrad.data.crystal_files.packed import pack
from tracegrad.data.loading.datamodule import database_path
from tracegrad.data.loading.deeph_module import DeepHDataModule
from tracegrad.errors import DataError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.blocks import cut_padding
from tracegrad.units import MEV

BASIS = OrbitalBasis.openmx({"C": "s2p1d1"})


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three bilayers in folders, H0 of each within 5 % of H."""
    folder = tmp_path_factory.mktemp("data") / "bilayers"
    database = CrystalDatabase(database_path("embedded:demo_crystals.h5"), include="light_bilayer_*")
    for row in range(3):
        structure = database[row]
        assert structure.hamiltonian is not None
        h0 = structure.hamiltonian * (0.95 + 0.01 * row)
        write_structure(replace(structure, h0=h0), folder / structure.name)
    return folder


def opened(folder: Path, **options) -> DeepHDataModule:
    module = DeepHDataModule(str(folder), BASIS, **{"sizes": [1, 1, 1], "dtype": "float64"} | options)
    module.setup("test")
    module.provide_h0()
    return module


def test_graphs_from_folders_a_cache_and_a_packed_file(written: Path, tmp_path: Path) -> None:
    database = CrystalDatabase(written, h0=True)
    pack((database[row] for row in range(3)), tmp_path / "packed.h5", decimals=None, provenance={})
    cached = opened(written, cache=str(tmp_path / "cache"))
    cached.prepare_data()
    cached.setup("test")
    assert cached.parts["test"].cache.path == tmp_path / "cache-h0"
    for module in (cached, opened(written), opened(tmp_path / "packed.h5")):
        graph = module.parts["test"][0]
        structure = database[int(graph.sample_id)]
        in_files = cut_padding(graph.h0_edge.numpy(), graph.edge_index.numpy(), structure.numbers, BASIS)
        assert np.array_equal(in_files, structure.h0)
        assert not torch.equal(graph.h0_edge, graph.h_edge)


def test_a_changed_h0_outdates_the_cache(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(written, tmp_path / "bilayers")
    for changed in (False, True):
        if changed:
            with h5py.File(next(folder.glob("*/h0.h5")), "r+") as file:
                file["[0, 0, 0, 1, 1]"][0, 0] += 1e-3
        opened(folder, cache=str(tmp_path / "cache")).prepare_data()
        assert "building the cache of 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda file: [file.__delitem__(key) for key in ("[0, 0, 0, 2, 1]", "[0, 0, 0, 1, 2]")],
            r"h0\.h5: the block \[0, 0, 0, 1, 2\] is missing, which hamiltonians\.h5 has \(2 in all\)",
        ),
        (
            lambda file: [file.create_dataset(f"[{r}, 0, 0, 1, 1]", data=np.eye(10)) for r in (9, -9)],
            r"h0\.h5: has the block \[-9, 0, 0, 1, 1\], which hamiltonians\.h5 lacks \(2 in all\)",
        ),
        (
            lambda file: [
                file.__delitem__("[0, 0, 0, 1, 1]"),
                file.create_dataset("[0, 0, 0, 1, 1]", data=[1.0]),
            ],
            r"h0\.h5: block \[0, 0, 0, 1, 1\] is float64 of shape \(1,\)",
        ),
        (
            lambda file: file["[0, 0, 0, 1, 1]"].write_direct(np.full((10, 10), np.nan)),
            r"NaN or infinite numbers in the h0, first in block \[0, 0, 0, 1, 1\]",
        ),
    ],
    ids=["missing", "more", "shape", "nan"],
)
def test_damaged_blocks(written: Path, tmp_path: Path, damage, message: str) -> None:
    folder = shutil.copytree(next(written.iterdir()), tmp_path / "one")
    with h5py.File(folder / "h0.h5", "r+") as file:
        damage(file)
    with pytest.raises(DataError, match=message):
        read_structure(folder, h0=True)


def test_data_without_h0_or_with_one_that_does_not_help(written: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(written, tmp_path / "bilayers")
    for path in folder.glob("*/h0.h5"):
        with h5py.File(path, "r+") as file:
            for block in file.values():
                block[...] = -block[()]
    with pytest.raises(DataError, match="H - H0 is larger than H"):
        opened(folder)
    path.unlink()
    with pytest.raises(DataError, match=r"h0\.h5: no such file; a network with model\.h0=data needs H0"):
        opened(folder)
    with pytest.raises(DataError, match="no array 'h0'"):
        opened(Path(database_path("embedded:demo_crystals.h5")), include="light_bilayer_*")


@pytest.mark.slow
def test_a_training_and_a_prediction(written: Path, tmp_path: Path) -> None:
    """Errors in tables are those of the whole H; a prediction needs H0, and is H0 plus what the network says."""
    settings = [
        f"data.path={written}",
        "data.include=[light_bilayer_*]",
        "data.twisted=[]",
        "data.sizes=[1,1,1]",
        "data.cache=null",
        "model.h0=data",
        "trainer.max_steps=2",
    ]
    train(tmp_path / "run", *settings)
    model = load_model(tmp_path / "run").double()
    module = opened(written, dtype="float32")
    structure = CrystalDatabase(written, h0=True)[int(module.parts["test"].rows[0])]
    geometry = (structure.numbers, structure.positions, structure.lattice, structure.edges)
    predicted = model.hamiltonian(*geometry, h0=structure.blocks("h0"))
    model.h0 = None
    for whole, rest, h0 in zip(predicted, model.hamiltonian(*geometry), structure.blocks("h0"), strict=True):
        np.testing.assert_allclose(whole, rest + h0, rtol=0, atol=1e-10)

    errors = np.concatenate(
        [(a - b).ravel() for a, b in zip(predicted, structure.blocks("hamiltonian"), strict=True)]
    )
    with (tmp_path / "run" / "test_samples.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["h_mae"]) == pytest.approx(np.abs(errors).mean() * MEV["eV"], rel=1e-4)

    def run(source: Path, *more: str) -> None:
        base = [f"checkpoint={tmp_path / 'run'}", f"structure={source}", f"output={tmp_path / 'out'}"]
        predict(plain(composed("predict", [*base, "bands=false", *more])))

    source = written / structure.name
    run(source)
    found = read_structure(tmp_path / "out")
    mean = [(b + predicted[k].T) / 2 for b, k in zip(predicted, _reverse(structure.edges), strict=True)]
    for block, expected in zip(found.blocks("hamiltonian"), mean, strict=True):
        np.testing.assert_allclose(block, expected, rtol=0, atol=1e-4)
    bare = shutil.copytree(source, tmp_path / "bare")
    (bare / "h0.h5").unlink()
    with pytest.raises(DataError, match=r"bare/h0\.h5: no such file"):
        run(bare, "overwrite=true")
    (tmp_path / "cell.xyz").write_text("not read")
    with pytest.raises(
        DataError, match=r"which a geometry file does not have; give a structure folder with h0\.h5"
    ):
        run(tmp_path / "cell.xyz", "overwrite=true")


def _reverse(edges: np.ndarray) -> list[int]:
    place = {tuple(edge): n for n, edge in enumerate(edges.tolist())}
    return [place[-x, -y, -z, j, i] for x, y, z, i, j in edges.tolist()]
