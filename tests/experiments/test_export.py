"""Model files: their content and that of the card, and that they contain the network of the run."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import tracegrad
from experiments.export import export
from experiments.predict import predict
from experiments.settings.configuration import composed, plain
from tests.checkpoints import DEEPH_E3, QHNET, write_checkpoint
from tests.molecules import WATER
from tests.run_directories import crystal_result, result
from tracegrad.errors import CheckpointError, ConfigError, TraceGradError
from tracegrad.model.network import HamiltonianModel
from tracegrad.reports.results import ResultsError
from tracegrad.weights.construct import construct
from tracegrad.weights.model_file import read_model_file

STEP = 1200
ORIGIN = {
    "git": "0123abcd" * 5,
    "python": "3.11.7",
    "packages": {"torch": "2.13.0", "e3nn": "0.6.0"},
    "init_from": {"file": "QHNet.pt", "sha256": "fedcba98" * 8, "tensors": 9, "new": []},
    "command": ["python", "/home/somebody/train.py"],
    "hardware": {"gpus": ["a very fast one"]},
}
DATA = {
    "database": "QH9Stable.db",
    "label": "QS",
    "bytes": 4096,
    "head_sha256": "abcdef0123456789",
    "split": "ood",
    "split_hash": "0123456789abcdef",
    "counts": {"train": 240, "val": 30, "test": 30},
    "functional": "b3lyp5",
    "units": {"hamiltonian": "hartree", "positions": "angstrom"},
    "differences": [],
}


def finished_run(
    directory: Path,
    settings: dict[str, Any] = QHNET,
    seed: int = 0,
    *,
    data: dict[str, Any] | None = None,
    results: dict[str, Any] | None = None,
    ema: bool = False,
) -> HamiltonianModel:
    """A run directory as a training writes it; ``results`` are changes of its results, None: a run without a test."""
    torch.manual_seed(seed)
    model = construct(settings, "settings").double().eval()
    config = {
        "name": "qs",
        "seed": seed,
        "repetition": None,
        "run_dir": str(directory),
        "init_from": "/data/weights/QHNet.pt",
        "model": settings,
        "tracegrad": {"trace": True, "grad": True},
        "trainer": {"precision": "64-true"},
        "callbacks": {"ema": {"decay": 0.99} if ema else None},
    }
    record = {"format": 1, "config": config, "data": data or DATA}
    for name in ("best", "last"):
        write_checkpoint(
            directory / "checkpoints" / f"{name}.ckpt",
            settings,
            model.state_dict(),
            tracegrad=record,
            global_step=STEP if name == "best" else STEP + 100,
            epoch=7,
        )
    (directory / "provenance.json").write_text(json.dumps(ORIGIN))
    if results is not None:
        write = crystal_result if settings is DEEPH_E3 else result
        content = write("tracegrad", seed, 100.0 + 10 * seed) | {"step": STEP, **results}
        (directory / "results.json").write_text(json.dumps(content))
    return model


def run(*settings: str) -> Path:
    return export(plain(composed("export", list(settings))))


def test_the_network_of_the_run_comes_back(tmp_path: Path) -> None:
    model = finished_run(tmp_path / "run", results={})
    path = run(f"run={tmp_path / 'run'}")
    assert path == tmp_path / "run" / "model.safetensors"
    found = tracegrad.load_model(path)
    assert not found.training
    assert torch.equal(found.hamiltonian(*WATER), model.hamiltonian(*WATER))  # float64, as in the checkpoint


def test_the_range_of_the_training_is_exported(tmp_path: Path) -> None:
    finished_run(tmp_path / "run", results={})
    seen = {"atoms": 3, "nearest": {"H": 1.0, "O": 0.98}, "distances": {"H-O": [[0.9, 1.05]]}}
    for name in ("best", "last"):
        path = tmp_path / "run" / "checkpoints" / f"{name}.ckpt"
        content = torch.load(path, weights_only=True)
        content["tracegrad"]["range"] = seen
        torch.save(content, path)
    found = tracegrad.load_model(run(f"run={tmp_path / 'run'}")).trained_range
    assert found is not None
    assert found.plain() == seen


def test_the_record_describes_the_network(tmp_path: Path) -> None:
    model = finished_run(tmp_path / "run", results={}, ema=True)
    output = tmp_path / "elsewhere" / "qs.safetensors"
    run(f"run={tmp_path / 'run'}", f"output={output}", "licence=CC-BY-4.0")
    record, state = read_model_file(output)
    assert record["model"] == QHNET
    assert record["data"] == DATA
    assert record["units"] == DATA["units"]
    assert record["basis"]["order"] == "pyscf"
    assert record["basis"]["shells"] == {
        "H": "s2p1",
        "C": "s3p2d1",
        "N": "s3p2d1",
        "O": "s3p2d1",
        "F": "s3p2d1",
    }
    assert record["code"] == {key: ORIGIN[old] for key, old in
                              (("revision", "git"), ("python", "python"), ("packages", "packages"))}  # fmt: skip
    assert record["licence"] == "CC-BY-4.0"
    assert record["metrics"] == [
        {"seed": 0, "repetition": 0, "step": STEP, "unit": "meV", "values": {
            "test/h_mae": 100.0, "test/h_mae_diag": 200.0, "test/h_mae_nondiag": 50.0}}
    ]  # fmt: skip
    assert record["training"]["averaged"] is True
    assert (record["training"]["step"], record["training"]["seed"]) == (STEP, 0)
    assert record["parameters"] == sum(p.numel() for p in model.parameters())
    assert state.keys() == model.state_dict().keys()


def test_the_card(tmp_path: Path) -> None:
    finished_run(tmp_path / "run", results={})
    run(f"run={tmp_path / 'run'}", f"output={tmp_path / 'qs.safetensors'}", "description=A test of ours.")
    card = (tmp_path / "qs.md").read_text(encoding="utf-8")
    for text in (
        "# QHNet+TraceGrad for QS",
        "A test of ours.",
        "b3lyp5",
        "Positions are in angstrom, H in hartree",
        "PySCF's (shells as in the basis, p as x, y, z",
        'tracegrad.load_model("qs.safetensors")',
        "model.initial_density(mol)",
        "QH9Stable.db (bytes 4096, head_sha256 abcdef0123456789)",
        "ood, hash 0123456789abcdef",
        "| MAE^H_all | meV | 100.000 | 123.000 |",
        "this network (seed 0)",
        "Elements: H, C, N, O, F",
        "Neutral molecules with closed shells",
        "tested on molecules with more atoms than those it was trained on",
        "None is stated",
        "arXiv:2405.05722",
        ORIGIN["git"],
        f"| began with weights of | QHNet.pt (SHA-256 {'fedcba98' * 8}) |",
    ):
        assert text in card


def test_several_seeds_are_quoted_with_mean_and_spread(tmp_path: Path) -> None:
    for seed in range(3):
        finished_run(tmp_path / f"seed{seed}", seed=seed, results={})
    output = run(f"run={tmp_path / 'seed0'}", f"runs=[{tmp_path / 'seed1'},{tmp_path / 'seed2'}]")
    card = output.with_suffix(".md").read_text(encoding="utf-8")
    assert "over seeds 0, 1, 2" in card
    assert "| MAE^H_all | meV | 100.000 | 110.000 ± 10.000 | 123.000 |" in card  # 100, 110, 120
    assert [entry["seed"] for entry in read_model_file(output)[0]["metrics"]] == [0, 1, 2]


def test_crystals(tmp_path: Path) -> None:
    data = DATA | {
        "database": "bilayers",
        "label": "BG",
        "split": "shuffle 42",
        "counts": {"train": 10, "val": 3, "test": 2, "twisted": 2},
        "units": {"hamiltonian": "eV", "positions": "angstrom"},
    }
    finished_run(tmp_path / "run", DEEPH_E3, data=data, results={})
    output = run(f"run={tmp_path / 'run'}")
    card = output.with_suffix(".md").read_text(encoding="utf-8")
    assert "# DeepH-E3+TraceGrad for BG" in card
    assert "H in eV" in card
    assert "OpenMX's" in card
    assert "initial_density" not in card
    assert "| MAE^H_all (t) | meV | 200.000 | 246.000 |" in card
    assert "and on 2 twisted structures" in card
    assert read_model_file(output)[0]["basis"]["radii"] == {"C": pytest.approx(6 * 0.529177, abs=1e-5)}
    assert tracegrad.load_model(output).backbone.periodic


def test_nothing_of_this_machine_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "s3cr3t-enough")
    data = DATA | {"split": str(tmp_path / "lists" / "index.npz")}
    finished_run(tmp_path / "run", data=data, results={})
    output = run(
        f"run={tmp_path / 'run'}", f"output={tmp_path / 'out.safetensors'}", "description=s3cr3t-enough"
    )
    for path in (output, output.with_suffix(".md")):
        content = path.read_bytes()
        for private in (str(tmp_path), "somebody", "s3cr3t-enough", str(Path.home()) + "/"):
            assert private.encode() not in content
    assert read_model_file(output)[0]["data"]["split"] == "index.npz"


@pytest.mark.parametrize("name", ["out.safetensors", "out.md"])
def test_what_exists_is_kept(tmp_path: Path, name: str) -> None:
    finished_run(tmp_path / "run", results={})
    (tmp_path / name).write_text("mine")
    settings = [f"run={tmp_path / 'run'}", f"output={tmp_path / 'out.safetensors'}"]
    with pytest.raises(ConfigError, match=rf"{re.escape(name)}: exists; .* overwrite=true"):
        run(*settings)
    assert (tmp_path / name).read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2  # the run and the file
    if name == "out.safetensors":  # what is no model file is not overwritten at all
        with pytest.raises(CheckpointError, match=r"out\.safetensors: "):
            run(*settings, "overwrite=true")
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()
    for _ in range(2):
        run(*settings, "overwrite=true")
    assert tracegrad.load_model(tmp_path / "out.safetensors")
    assert (tmp_path / "out.md").read_text(encoding="utf-8").startswith("# QHNet")


@pytest.mark.parametrize("checkpoint", ["best", "last"])
def test_metrics_of_another_step_are_not_quoted(
    tmp_path: Path, checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    finished_run(tmp_path, results={"step": STEP - 1} if checkpoint == "best" else {})
    output = run(f"run={tmp_path}", f"checkpoint={checkpoint}")
    assert "no test results" in capsys.readouterr().out
    assert "This checkpoint was not tested." in output.with_suffix(".md").read_text(encoding="utf-8")
    assert read_model_file(output)[0]["metrics"] == []
    folder = tmp_path / f"evaluation_test_{checkpoint}"
    folder.mkdir()
    step = STEP if checkpoint == "best" else STEP + 100
    content = result("tracegrad", 0, 77.0, step=step, checkpoint=checkpoint)
    (folder / "evaluation.json").write_text(json.dumps(content))
    run(f"run={tmp_path}", f"checkpoint={checkpoint}", "overwrite=true")
    assert "77.000" in output.with_suffix(".md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arm": "grad"}, r"other is a run of .*; give runs of the same arm and data"),
        ({"split_hash": "f" * 16}, r"split ffffffffffffffff\), not of"),
        ({"parameters": 7}, r"differ in more than their seed: parameters"),
        ({"seed": 0}, r"seed 0 of QHNet\+TraceGrad occurs twice"),
    ],
)
def test_other_runs_must_differ_in_the_seed_alone(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    finished_run(tmp_path / "run", results={})
    finished_run(tmp_path / "other", seed=1, results=changes)
    with pytest.raises(ResultsError, match=message):
        run(f"run={tmp_path / 'run'}", f"runs=[{tmp_path / 'other'}]")
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere/checkpoints/best\.ckpt: no such checkpoint"):
        run(f"run={tmp_path / 'nowhere'}")
    finished_run(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"its name must end in \.safetensors"):
        run(f"run={tmp_path / 'run'}", f"output={tmp_path / 'model.pt'}")
    with pytest.raises(ResultsError, match=r"no test results of best\.ckpt"):
        run(f"run={tmp_path / 'run'}", f"runs=[{tmp_path / 'run'}]")
    (tmp_path / "run" / "provenance.json").unlink()
    run(f"run={tmp_path / 'run'}", f"output={tmp_path / 'bare.safetensors'}")
    record, _ = read_model_file(tmp_path / "bare.safetensors")
    assert record["code"]["revision"] == "unknown"
    assert record["training"]["init_from"] == {"file": "QHNet.pt", "sha256": "unknown"}
    (tmp_path / "run" / "provenance.json").write_text("{")
    with pytest.raises(TraceGradError, match=r"provenance\.json: damaged"):
        run(f"run={tmp_path / 'run'}")
    bare = write_checkpoint(tmp_path / "bare.ckpt", QHNET, construct(QHNET, "").state_dict())
    with pytest.raises(CheckpointError, match=r"bare\.ckpt: has no record of its training"):
        run(f"run={tmp_path / 'run'}", f"checkpoint={bare}")


def test_predictions_from_a_model_file(tmp_path: Path) -> None:
    finished_run(tmp_path / "run", results={})
    path = run(f"run={tmp_path / 'run'}")
    (tmp_path / "water.xyz").write_text("3\n\nO 0 0 0\nH 0 .76 .59\nH 0 -.76 .59\n")
    settings = [
        f"checkpoint={path}",
        f"structure={tmp_path / 'water.xyz'}",
        f"output={tmp_path / 'predicted'}",
    ]
    predict(plain(composed("predict", settings)))
    assert (tmp_path / "predicted" / "hamiltonian.npz").is_file()
