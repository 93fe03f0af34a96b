"""Calculations of SIESTA and FHI-aims are converted and trained on, as they are."""

import json
from pathlib import Path

import pytest

from experiments.convert import main as convert
from experiments.settings.configuration import composed, plain
from experiments.training.runs import train
from tests.data.crystals.aims_files import write_calculation
from tests.data.crystals.orbital_files import assert_same_crystal, mos2
from tests.data.crystals.siesta_files import write_run
from tests.experiments.test_train_crystals import SMALL
from tracegrad.data.crystal_files.deeph import read_structure

WRITERS = {"siesta": write_run, "aims": write_calculation}


def database(code: str, folder: Path) -> Path:
    """A folder with four calculations of a code."""
    for seed in range(4):
        WRITERS[code](mos2(seed=seed), folder / "runs" / f"{seed:02d}")
    return folder / "runs"


@pytest.mark.parametrize("code", WRITERS)
def test_conversion(tmp_path, code, monkeypatch, capsys):
    output = tmp_path / "structures"
    monkeypatch.setattr("sys.argv", ["convert", f"source={database(code, tmp_path)}", f"output={output}"])
    convert()
    assert capsys.readouterr().out.count("3 atoms (2 S s1p1, 1 Mo s2p1d1)") == 4
    for seed in range(4):
        assert_same_crystal(read_structure(output / f"{seed:02d}", overlap=True), mos2(seed=seed))


@pytest.mark.slow
def test_training(tmp_path, monkeypatch):
    """On the calculations as they are, with several files each."""
    database("aims", tmp_path)
    monkeypatch.chdir(tmp_path)
    small = [entry for entry in SMALL if not entry.startswith(("experiment", "data.", "trainer.max_steps"))]
    overrides = [
        *("data=deeph", "basis=openmx", "basis.shells=[Mo-s2p1d1,S-s1p1]", "model=deeph_e3", "loss=deeph"),
        *("optim=deeph_e3", "data.path=runs", "data.sizes=[2,1,1]", "data.num_workers=0", "run_dir=run"),
        *(*small, "trainer.max_steps=2"),
    ]
    config = composed("train", overrides)
    train(config, plain(config))
    assert json.loads(Path("run/results.json").read_text())
