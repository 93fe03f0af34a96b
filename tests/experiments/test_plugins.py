"""A backbone and a loss term of a package outside of TraceGrad, whose files are those of the pages in docs/."""

import csv
import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hydra.utils import instantiate

from experiments.settings.configuration import composed
from tests import crystals, forked
from tests.backbones.crystal_networks import blocks_of, rotated
from tests.molecules import random_rotation
from tests.nn.item_first.test_shell_pairs import orbital_rotation
from tracegrad import load_model
from tracegrad.data.crystal_files.database import CrystalDatabase
from tracegrad.data.crystal_files.deeph import read_structure, write_structure
from tracegrad.data.loading.datamodule import database_path
from tracegrad.errors import CheckpointError, ConfigError
from tracegrad.hamiltonian.graph import collate
from tracegrad.model.network import HamiltonianPrediction
from tracegrad.weights import plugins

ROOT = Path(__file__).parents[2]
PAGES = ("extend-a-backbone.md", "extend-a-loss.md")
ARMS = ("none", "trace", "grad", "tracegrad")
CRYSTALS = [
    *("experiment=demo_crystals", "plugins=[my_package]", "model=two_centre", "loss=on_site"),
    *("data.sizes=[4,2,2]", "tracegrad.channels=8", "tracegrad.hidden=8", "callbacks=default"),
    *("trainer.log_every_n_steps=1", "logger.wandb.mode=disabled"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package of the pages."""
    folder = tmp_path_factory.mktemp("packages")
    for page in PAGES:
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        named = r"`(my_package/[\w/.]+)`(?:(?!```).)*?```\w+\n(.*?)```"  # a name, and the next block of code
        for name, code in re.findall(named, text, re.DOTALL):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(code, encoding="utf-8")
    (folder / "my_package" / "__init__.py").touch()
    return folder


@pytest.fixture
def importable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package can be imported, and is not allowed yet."""
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(plugins, "_named", set())


def command(name: str, folder: Path, *words: str) -> subprocess.CompletedProcess:
    return forked.run(
        f"experiments.{name}", *words, environment={**os.environ, "PYTHONPATH": str(folder)}, folder=folder
    )


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    """A run that was trained for 4 steps and resumed for 4 more."""
    for steps in (4, 8):
        done = command(
            "train",
            folder,
            *CRYSTALS,
            "tracegrad=tracegrad",
            "run_dir=runs/first",
            f"trainer.max_steps={steps}",
        )
        assert done.returncode == 0, done.stderr
    assert "resuming from runs/first/checkpoints/last.ckpt (step 4)" in done.stdout
    return folder / "runs" / "first"


def test_the_pages_have_the_whole_package(folder: Path) -> None:
    files = {
        path.relative_to(folder).as_posix() for path in folder.rglob("my_package/**/*.*") if path.is_file()
    }
    package = {name for name in files if "__pycache__" not in name}
    assert package == {
        f"my_package/{name}"
        for name in (
            "__init__.py",
            "two_centre.py",
            "on_site.py",
            "conf/model/two_centre.yaml",
            "conf/loss/on_site.yaml",
        )
    }


@pytest.mark.parametrize("path", sorted((ROOT / "conf").rglob("*.yaml")), ids=str)
def test_the_settings_of_this_project_need_no_plugin(path: Path) -> None:
    plugins.check_packages(yaml.safe_load(path.read_text(encoding="utf-8")), str(path))


@pytest.mark.parametrize("target", ["os.system", "torch.hub.load", "builtins.eval", "my_package.Net", None])
def test_settings_of_a_run_that_name_another_package_are_refused(target: str | None) -> None:
    with pytest.raises(CheckpointError, match=r"config\.yaml: _target_ is .*not imported; .*plugins=\["):
        plugins.check_packages({"optim": [{"a": {"_target_": target}}]}, "config.yaml")


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_of_the_backbone_is_equivariant_and_learns(arm: str) -> None:
    config = composed("train", [*CRYSTALS, f"tracegrad={arm}"])
    config.basis.shells = crystals.SHELLS
    torch.manual_seed(0)
    model = instantiate(config.model).double()
    rotation = -random_rotation(1)  # with inversion
    u = orbital_rotation(model.basis, rotation)
    turned = blocks_of(model, rotated(crystals.MOS2, rotation))
    torch.testing.assert_close(turned, u @ blocks_of(model, crystals.MOS2) @ u.mH, rtol=0, atol=1e-9)
    loss = instantiate(config.loss)(model.basis, model.trace_labels)
    graph = collate([crystals.labelled_graph(c, model.basis, seed) for seed, c in enumerate(crystals.ALL)])
    values = loss(model(graph), graph)
    assert list(values.shares) == ["h", "t", "on_site"] if model.tracegrad.trace else ["h", "on_site"]
    assert len(values.per_sample["on_site"]) == len(crystals.ALL) - 1  # one crystal has no on-site blocks
    mu = values.logs["mu"] * values.logs["loss_t"] if model.tracegrad.trace else 0.0
    expected = values.logs["loss_h"] + mu + 0.5 * values.logs["loss_on_site"]
    torch.testing.assert_close(values.logs["loss"], expected, rtol=1e-14, atol=0)
    values.total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.usefixtures("importable")
def test_the_error_of_the_page_is_that_of_the_diagonal_blocks() -> None:
    config = composed("train", CRYSTALS)
    model = crystals.SmallBackbone(crystals.SPINFUL).double()
    term = instantiate(config.loss)(model.basis, None).terms["on_site"]
    graph = collate([crystals.labelled_graph(crystals.MOS2, model.basis)])
    with torch.no_grad():
        blocks = model(graph)["edge"]
        found = term(HamiltonianPrediction({"edge": blocks}), graph)
    errors = []
    for (i, j), cell, block, label in zip(graph.edge_index.T, graph.cells, blocks, graph.h_edge, strict=True):
        if i == j and not cell.any():
            exists = model.basis.mask[int(graph.numbers[i])] > 0
            errors += (block - label).abs().numpy()[np.ix_(exists, exists)].ravel().tolist()
    assert found.tolist() == pytest.approx([np.mean(errors)], rel=1e-12)


@pytest.mark.slow
def test_the_term_is_logged_everywhere(trained: Path) -> None:
    with (trained / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name in ("train/loss_on_site", "val/loss_on_site"):
        logged = [float(row[name]) for row in rows if row[name]]
        assert logged
        assert min(logged) > 0
    assert json.loads((trained / "results.json").read_text())["metrics"]["test/loss_on_site"] > 0


@pytest.mark.slow
def test_a_file_alone_imports_nothing(trained: Path, folder: Path, importable: None) -> None:
    refusal = r"_target_ is 'my_package\.two_centre\.TwoCentre'.* not imported; .*plugins=\[my_package\]"
    with pytest.raises(CheckpointError, match=refusal):
        load_model(trained)
    done = command("evaluate", folder, f"run={trained}")
    assert done.returncode == 1
    assert re.search(refusal, done.stderr)
    with pytest.raises(ConfigError, match="there is no package 'nowhere'"):
        load_model(trained, plugins=["nowhere"])
    assert load_model(trained, plugins=["my_package"]).backbone.label == "TwoCentre"


@pytest.mark.slow
def test_the_network_is_tested_exported_and_predicts(trained: Path, folder: Path) -> None:
    done = command("evaluate", folder, f"run={trained}", "plugins=[my_package]", "output=again")
    assert done.returncode == 0, done.stderr
    again = json.loads((folder / "again" / "evaluation.json").read_text())["metrics"]
    first = json.loads((trained / "results.json").read_text())["metrics"]
    assert again["test/h_mae"] == pytest.approx(first["test/h_mae"], rel=1e-6)
    file = folder / "two_centre.safetensors"
    done = command("export", folder, f"run={trained}", f"output={file}", "plugins=[my_package]")
    assert done.returncode == 0, done.stderr
    sample = CrystalDatabase(database_path("embedded:demo_crystals.h5"), include="light_bilayer_*")[3]
    write_structure(sample, folder / "sample")
    words = [f"checkpoint={file}", f"structure={folder / 'sample'}", "output=predicted"]
    assert command("predict", folder, *words).returncode == 1
    done = command("predict", folder, *words, "plugins=[my_package]")
    assert done.returncode == 0, done.stderr
    assert len(read_structure(folder / "predicted").hamiltonian) == len(sample.hamiltonian)


@pytest.mark.slow
def test_a_training_starts_from_the_network(trained: Path, folder: Path) -> None:
    done = command(
        "train",
        folder,
        *CRYSTALS,
        "run_dir=runs/second",
        f"init_from={trained}",
        "trainer.max_steps=1",
        "test=false",
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"init_from: (\d+) of \1 tensors from", done.stdout)


@pytest.mark.slow
def test_other_commands_find_the_settings_of_a_plugin(folder: Path) -> None:
    words = ["experiment=demo_crystals", "plugins=[my_package]", "model=two_centre"]
    done = command("ablate", folder, *words, "seeds=1", "dry_run=true")
    assert done.returncode == 0, done.stderr
    assert all(f"/{arm}_seed" in done.stdout for arm in ARMS)
    done = command("train", folder, "--cfg", "job", *words)
    assert "_target_: my_package.two_centre.TwoCentre" in done.stdout
    done = command("train", folder, "plugins=[nowhere]")
    assert done.stderr.startswith("error: plugins: there is no package 'nowhere'; give the name of a package")
