"""Conversions of real runs of each code, and trainings of a few steps on what they give."""

import json
import shutil

import pytest

from experiments.convert import main
from experiments.settings.configuration import composed, plain
from experiments.training.runs import train
from tests.data.crystals.real_runs import FILES
from tests.experiments.in_process import caller
from tests.experiments.test_train_crystals import SMALL
from tracegrad import load_model

pytestmark = [
    pytest.mark.skipif(not FILES.is_dir(), reason="needs files of real runs"),
    pytest.mark.slow,
]
BOTH = ["data.spin=both", "basis.collinear=true"]
RUNS = {
    "abacus/MoS2_310": "[Mo-s4p2d2f1,S-s2p2d1]",
    "abacus/Si2_new_nspin2": "[Si-s1p1]",
    "siesta/Si_hsx2_intel": "[Si-s2p2d1]",
    "siesta/SrTiO3_polarized": "[O-s2p2d1,Ti-s3p2d2,Sr-s3p2d1]",
    "aims/MoS2": "[Mo-s6p4d3f1,S-s4p3d1f1]",
}
COLLINEAR = ("abacus/Si2_new_nspin2", "siesta/SrTiO3_polarized", "aims/MoS2")


@pytest.mark.parametrize("name", RUNS)
def test_training(name, tmp_path, monkeypatch, capsys):
    """Three copies of the run are divided into training, validation and test."""
    convert = caller("convert", main, monkeypatch, capsys)
    for n in range(3):
        shutil.copytree(FILES / name, tmp_path / "runs" / f"{n:02d}")
    words = ["spin=both"] if name in COLLINEAR else []
    # The runs of ABACUS with the newer layout were kept without S and without the log, which has the shells.
    words += [f"shells={RUNS[name]}", "overlap=false"] if "new" in name else ["check=true"]
    convert(f"source={tmp_path / 'runs'}", f"output={tmp_path / 'structures'}", *words)
    endings = ["_up", "_down"] if name in COLLINEAR else [""]
    written = {path.name for path in (tmp_path / "structures").iterdir()}
    assert written == {f"{n:02d}{ending}" for n in range(3) for ending in endings}

    small = [entry for entry in SMALL if not entry.startswith(("experiment", "data.", "trainer.max_steps"))]
    settings = [
        *("data=deeph", "basis=openmx", "model=deeph_e3", "loss=deeph", "optim=deeph_e3", *small),
        *(f"basis.shells={RUNS[name]}", f"data.path={tmp_path / 'structures'}", "data.sizes=[1,1,1]"),
        *("data.num_workers=0", f"run_dir={tmp_path / 'run'}", "trainer.max_steps=2"),
        *(BOTH if name in COLLINEAR else []),
    ]
    config = composed("train", settings)
    train(config, plain(config))
    metrics = json.loads((tmp_path / "run" / "results.json").read_text())["metrics"]
    assert metrics["test/h_mae"] > 0
    assert ("test/h_mae/down" in metrics) == (name in COLLINEAR)
    assert load_model(tmp_path / "run").basis.collinear == (name in COLLINEAR)
