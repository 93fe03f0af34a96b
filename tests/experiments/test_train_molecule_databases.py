"""Short trainings on databases of MD17 and nablaDFT, with tests, reports and other files to test on."""

import json
from pathlib import Path

import pytest

from experiments import evaluate
from experiments.settings.configuration import composed, plain
from experiments.training.runs import train
from tests import forked
from tests.data.molecules import files
from tests.experiments.processes import PLAIN
from tracegrad.errors import ConfigError
from tracegrad.metrics.functional.orbitals import NAMES

SMALL = [
    "model=qhnet_small",
    "model.backbone.channels=4",
    "model.backbone.bottleneck=4",
    "tracegrad.channels=8",
    "tracegrad.hidden=8",
    "data.num_workers=0",
    "data.batch_size=2",
    "trainer.max_steps=3",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "trainer.check_val_every_n_epoch=1",
    "optim.optimizer.fused=false",
    "callbacks.acceleration.molecules=0",
    "callbacks.orbitals.cache=null",
    "callbacks.orbitals.figure_molecules=0",
    "logger.wandb.mode=disabled",
    "threads=1",
    *PLAIN,
]


def run(directory: Path, *overrides: str) -> dict:
    config = composed("train", [*SMALL, f"run_dir={directory}", *overrides])
    train(config, plain(config))
    results = json.loads((directory / "results.json").read_text())
    assert {f"test/{name}" for name in (*NAMES, "h_mae", "h_mae_diag", "t_mae")} <= results["metrics"].keys()
    assert (directory / "orbitals.csv").exists()
    return results


@pytest.mark.slow
def test_md17(tmp_path: Path) -> None:
    path = files.write_md17(tmp_path / "water.db", [files.sample([8, 1, 1], seed) for seed in range(8)])
    directory = tmp_path / "run"
    results = run(directory, "experiment=md17_water", f"data.path={path}", "data.sizes=[4,2]")
    assert (results["experiment"], results["database_label"]) == ("md17_water", "MD17 water")
    assert results["counts"] == {"train": 4, "val": 2, "test": 2}
    origin = json.loads((directory / "provenance.json").read_text())
    assert origin["data"]["functional"] == "pbe"

    with pytest.raises(ConfigError, match=r"the data of .* are one file; give path=PATH"):
        evaluate.evaluate(composed("evaluate", [f"run={directory}", f"test_path={path}"]))
    with pytest.raises(ConfigError, match=r"for a released network give data\.test_path=PATH"):
        evaluate.evaluate(
            composed("evaluate", ["checkpoint=a.pt", "data=nabladft_tiny", f"test_path={path}"])
        )
    report = tmp_path / "report"
    done = forked.run("experiments.report", f"runs={directory}", f"output={report}")
    assert done.returncode == 0, done.stderr
    assert "MD17 water" in "".join(page.read_text() for page in report.rglob("*.md"))


@pytest.mark.slow
def test_nabladft(tmp_path: Path) -> None:
    """Tested on the file of the recipe, then on another one."""
    numbers = ([35, 1], [6, 16, 1, 1], [17, 9], [7, 6, 1], [8, 1, 1])
    samples = [files.sample(row, seed, files.OMEGA_B97X_D) for seed, row in enumerate(numbers)]
    train_path, test_path, other_path = (
        files.write_nabladft(tmp_path / f"{name}.db", part)
        for name, part in {"train": samples, "test": samples[1:3], "other": samples[:1]}.items()
    )
    directory = tmp_path / "run"
    results = run(
        directory,
        "experiment=nabladft_tiny",
        *(f"data.path={train_path}", f"data.test_path={test_path}", "data.fractions=[.8,.2]"),
    )
    assert results["counts"] == {"train": 4, "val": 1, "test": 2}
    settings = [f"run={directory}", f"test_path={other_path}", "other_data=true", "checkpoint=last"]
    evaluate.evaluate(composed("evaluate", settings))
    measured = json.loads((directory / "evaluation_test_last" / "evaluation.json").read_text())
    assert (measured["split"], measured["counts"]["test"]) == ("other", 1)
