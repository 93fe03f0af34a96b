"""The code of docs/extend-a-format.md: a format that is read as it is, and converted."""

import importlib
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from experiments.convert import main as convert
from experiments.settings.configuration import composed, plain
from experiments.training.runs import train
from tests.experiments.test_train_crystals import SMALL
from tracegrad.data.crystal_files.database import CrystalDatabase
from tracegrad.data.crystal_files.deeph import read_structure
from tracegrad.data.crystals.structure import Structure
from tracegrad.data.loading.datamodule import database_path
from tracegrad.errors import DataError
from tracegrad.hamiltonian.basis import CONVENTIONS
from tracegrad.units import EV_PER_HARTREE

PAGE = (Path(__file__).parents[2] / "docs" / "extend-a-format.md").read_text()
EMBEDDED = CrystalDatabase(database_path("embedded:demo_crystals.h5"), include="light_graphene_*")


def blocks_of_page(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def arguments(command: str) -> list[str]:
    """What follows ``tracegrad COMMAND``."""
    return shlex.split(command.replace("\\\n", ""))[2:]


def write_npz(structure: Structure, folder: Path) -> None:
    """The toy format: hartree, m = -l .. l in each shell, edges in another order."""
    degrees = structure.shells[6]
    starts = np.cumsum([0, *(2 * degree + 1 for degree in degrees)])
    order = [
        start + place
        for start, degree in zip(starts, degrees, strict=False)
        for place in CONVENTIONS["openmx"].get(degree, range(2 * degree + 1))
    ]
    blocks = [block[np.ix_(order, order)] / EV_PER_HARTREE for block in structure.blocks("hamiltonian")]
    np.savez(
        folder / f"{structure.name}.npz",
        numbers=structure.numbers,
        positions=structure.positions,
        lattice=structure.lattice,
        edges=structure.edges[::-1],
        hamiltonian=np.concatenate([block.ravel() for block in blocks[::-1]]),
    )


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with the module of the page and four crystals in ``mine``, in which commands run."""
    (python,) = blocks_of_page("python")
    (tmp_path / "my_formats.py").write_text(python)
    (tmp_path / "mine").mkdir()
    for row in range(len(EMBEDDED)):
        write_npz(EMBEDDED[row], tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def assert_same(found: Structure, expected: Structure) -> None:
    assert found.name == expected.name
    assert np.array_equal(found.edges, expected.edges)
    assert np.abs(found.hamiltonian - expected.hamiltonian).max() < 1e-12


@pytest.mark.slow
def test_a_format_of_another_package(folder, monkeypatch):
    training, conversion = blocks_of_page("bash")
    database = CrystalDatabase("mine", reader=importlib.import_module("my_formats").NpzReader)
    assert database.names == EMBEDDED.names
    assert_same(database[2], EMBEDDED[2])
    with pytest.raises(DataError, match="no structures in it"):
        CrystalDatabase("mine")

    small = [entry for entry in SMALL if not entry.startswith(("experiment", "data.", "trainer.max_steps"))]
    overrides = [*arguments(training), *small, "trainer.max_steps=2", "data.num_workers=0", "run_dir=run"]
    config = composed("train", overrides)
    train(config, plain(config))
    assert json.loads(Path("run/results.json").read_text())
    (cache,) = folder.glob("mine-*.tracegrad-cache")  # the cache knows nothing of the format either
    assert len(list(cache.glob("*.safetensors"))) == len(EMBEDDED)

    monkeypatch.setattr("sys.argv", ["convert", *arguments(conversion)])
    convert()
    assert_same(read_structure(folder / "structures" / EMBEDDED.names[1]), EMBEDDED[1])
