"""Model folders of DeepH-E3: read without running their code, and refused if they describe another network."""

import json
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import crystals
from tests.deeph_e3_folders import write_folder
from tests.oracles import deeph_e3_blocks as oracle_blocks
from tests.weights.released.test_deeph_e3 import ONE, SOC_SHELLS, THREE, meta, state
from tracegrad.errors import CheckpointError
from tracegrad.weights.released import load_deeph_e3_folder, load_released_deeph_e3
from tracegrad.weights.released.deeph_e3_folder import all_targets


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_folder(tmp_path / "mos2", state("small"), meta("small"), r_max=6.4)


def hamiltonian(model) -> np.ndarray:
    return np.concatenate([block.ravel() for block in model.hamiltonian(*crystals.MOS2)])


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("case", ["small", "soc"])
def test_the_network_of_a_folder(tmp_path, case, legacy):
    folder = write_folder(tmp_path / "model", state(case), meta(case), r_max=6.4)
    model = load_deeph_e3_folder(folder, legacy, edge_chunk=7)
    expected = load_released_deeph_e3(state(case), meta(case), legacy, r_max=6.4)
    np.testing.assert_allclose(hamiltonian(model), hamiltonian(expected), rtol=0, atol=1e-12)
    assert model.backbone.edge_chunk == 7
    assert not list(folder.rglob("executed"))


def test_the_range_comes_from_the_settings_or_their_defaults(folder):
    assert load_deeph_e3_folder(folder).backbone.cutoff == 6.4
    edit(folder / "src" / "train.ini", "cutoff_radius", "; cutoff_radius")
    defaults = folder / "src" / "deephe3_1" / "default_configs" / "train_default.ini"
    edit(defaults, "7.2", "8.1")
    assert load_deeph_e3_folder(folder).backbone.cutoff == 8.1
    defaults.unlink()
    assert load_deeph_e3_folder(folder).backbone.cutoff == 7.2


def test_ways_to_name_a_model(folder, tmp_path):
    last = {name: 0.5 * value for name, value in state("small").items()}
    torch.save({"state_dict": last}, folder / "model.pkl")
    best, other = (hamiltonian(load_deeph_e3_folder(path)) for path in (folder, folder / "model.pkl"))
    assert np.abs(best - other).max() > 1e-3
    for path in (str(folder), folder / "best_model.pkl", tmp_path):
        assert np.array_equal(hamiltonian(load_deeph_e3_folder(path)), best)
    shutil.copytree(folder, tmp_path / "second")
    with pytest.raises(CheckpointError, match=r"holds several models of DeepH-E3 \(mos2, second\); give one"):
        load_deeph_e3_folder(tmp_path)


@pytest.mark.parametrize("info", [ONE, SOC_SHELLS, THREE])
def test_targets_are_those_of_the_released_code(info):
    numbers, shells = info["index_to_Z"], info["orbital_types"]
    assert all_targets(numbers, shells) == oracle_blocks.targets_of(numbers, shells)
    for case in ("small", "soc"):
        assert (
            all_targets(meta(case)["index_to_Z"], meta(case)["orbital_types"]) == meta(case)["target_blocks"]
        )


def remove(name: str, folder: Path) -> None:
    (folder / name).unlink()


def rewrite(name: str, text: str, folder: Path) -> None:
    (folder / name).write_text(text)


def setting(section: str, line: str, folder: Path) -> None:
    path = folder / "src" / "train.ini"
    path.write_text(path.read_text().replace(f"[{section}]", f"[{section}]\n{line}"))


def fewer_targets(folder: Path) -> None:
    path = folder / "src" / "target_blocks.json"
    path.write_text(json.dumps(json.loads(path.read_text())[:3]))


def other_order(folder: Path) -> None:
    path = folder / "src" / "target_blocks.json"
    path.write_text(json.dumps(json.loads(path.read_text())[::-1]))


def with_objects(folder: Path) -> None:
    torch.save({"state_dict": state("small"), "place": Path("x")}, folder / "best_model.pkl")


def other_elements(folder: Path) -> None:
    info = {"spinful": False, "index_to_Z": [6], "orbital_types": [[0, 1]]}
    rewrite("src/dataset_info.json", json.dumps(info), folder)
    rewrite("src/target_blocks.json", json.dumps(oracle_blocks.targets_of([6], [[0, 1]])), folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (partial(remove, "best_model.pkl"), r"mos2: holds no best_model.pkl, .*such as model.pkl\)"),
        (
            partial(remove, "src/dataset_info.json"),
            r"mos2: src lacks dataset_info.json, .*copy the whole folder",
        ),
        (partial(remove, "src/train.ini"), "mos2: src lacks train.ini"),
        (
            lambda folder: shutil.rmtree(folder / "src"),
            "lacks dataset_info.json, target_blocks.json, train.ini",
        ),
        (
            partial(rewrite, "src/dataset_info.json", "{"),
            r"dataset_info.json: not readable as JSON \(.*; copy",
        ),
        (partial(rewrite, "src/dataset_info.json", "[1]"), "dataset_info.json: index_to_Z .* are needed"),
        (
            partial(
                rewrite, "src/dataset_info.json", '{"spinful": 0, "index_to_Z": [6], "orbital_types": [[0]]}'
            ),
            "dataset_info.json: .* and spinful are needed",
        ),
        (
            partial(
                rewrite,
                "src/dataset_info.json",
                '{"spinful": true, "index_to_Z": "6", "orbital_types": [[0]]}',
            ),
            "dataset_info.json: index_to_Z",
        ),
        (partial(rewrite, "src/target_blocks.json", "3"), "predicts 0 targets, which are not the 49 pairs"),
        (fewer_targets, "predicts 3 targets, which are not the 49 pairs .* target_blocks_type = all"),
        (other_order, "predicts 49 targets, which are not"),
        (partial(rewrite, "src/train.ini", "no section"), "train.ini: not readable as settings of DeepH-E3"),
        (
            partial(setting, "network", "ignore_parity = True"),
            r"ignore_parity of \[network\] is True; .*with false",
        ),
        (
            partial(setting, "network", "spherical_basis_irreps = 2x0e"),
            "is 2x0e; only networks with none can",
        ),
        (
            partial(setting, "target", "target = charge"),
            r"target of \[target\] is charge; .*with hamiltonian",
        ),
        (
            lambda folder: edit(folder / "src" / "train.ini", "= 6.4", "= far"),
            "train.ini: not readable as settings .*far",
        ),
        (lambda folder: edit(folder / "src" / "train.ini", "= 6.4", "= -1"), "cutoff_radius is -1.0"),
        (with_objects, r"best_model.pkl: not loaded: it holds pathlib.* only its state_dict"),
        (partial(rewrite, "best_model.pkl", "text"), "best_model.pkl: damaged, or not a checkpoint"),
        (other_elements, r"best_model.pkl: not a released DeepH-E3 for this dataset_info"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_other_folders_are_refused(folder, change, message):
    change(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_deeph_e3_folder(folder)
    assert re.search(message, str(caught.value).split("\n")[0])
    assert "\n" not in str(caught.value)
    assert not list(folder.rglob("executed"))
