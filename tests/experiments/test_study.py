"""A registered study: read, trained and summed up."""

import json
from pathlib import Path

import pytest
import yaml

from experiments import study
from experiments.reporting.study_file import read_study
from experiments.reporting.study_runs import groups_to_train, read_recorded
from experiments.settings.configuration import composed, plain
from tests.experiments.in_process import status_of
from tests.experiments.processes import PLAIN
from tests.run_directories import crystal_result, result, write_run
from tracegrad.errors import ConfigError

CONTENT = {
    "registered": "2026-01-01",
    "metrics": {
        "test/h_mae": {"label": "all"},
        "test/psi_cosine": {"label": "1 - Sim(psi)", "complement": True},
        "test/h_mae/twisted": {"label": "all (twisted)", "drawn": False},
    },
    "parts": {
        "water": {
            "title": "water",
            "arms": ["none", "tracegrad"],
            "seeds": [0, 1, 2],
            "settings": ["experiment=demo", ["name=water", "data.path={databases}/a b.db"]],
            "curves": True,
        },
        "equal": {
            "title": "equal seconds",
            "arms": ["none"],
            "seeds": [0, 1],
            "settings": ["experiment=demo"],
            "compare": [["water/tracegrad", "none"]],
        },
    },
}


def write(tmp_path: Path, content: dict) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    return status_of("study", study.main, monkeypatch, *arguments)


def test_the_command_line_of_a_part(tmp_path):
    part = read_study(str(write(tmp_path, CONTENT))).parts[0]
    assert part.arguments(Path("/data/x=y")) == [
        *("experiment=demo", "name=water", "data.path='/data/x=y/a b.db'"),
        *("arms=none,tracegrad", "seeds=[0,1,2]"),
    ]
    assert part.pairs == ((("water", "tracegrad"), ("water", "none")),)


def test_every_part_of_the_studies_here_can_be_composed():
    studies = sorted((Path(__file__).parents[2] / "studies").glob("*/study.yaml"))
    assert studies
    for path in studies:
        for part in read_study(str(path)).parts:
            settings = [
                entry for entry in part.arguments(Path("/data")) if not entry.startswith(("arms=", "seeds="))
            ]
            values = plain(composed("train", settings))
            assert values["name"] == part.name
            assert values["data"]["path"].startswith(("/data/", "embedded:"))
            assert values["trainer"]["max_steps"] >= (1000 if path.parent.name == "lean_tracegrad" else 3000)


def test_runs_are_compared_seed_by_seed(tmp_path, capsys, monkeypatch):
    path, runs = write(tmp_path, CONTENT), tmp_path / "runs"
    psi = {"none": 0.8, "tracegrad": 0.9}
    for arm, errors in (("none", (10.0, 20.0, 40.0)), ("tracegrad", (5.0, 12.0))):
        for seed, error in enumerate(errors):
            content = result(arm, seed, error)
            content["metrics"]["test/psi_cosine"] = psi[arm]
            write_run(runs / "water" / f"{arm}_seed{seed}", content)
    write_run(runs / "equal" / "none_seed0", result("none", 0, 8.0))
    arguments = (f"study={path}", "databases=/data", f"runs={runs}", "train=false")
    assert call(monkeypatch, *arguments) == 0

    content = json.loads((path.parent / "results.json").read_text())
    found = {(c["part"], c["metric"]): c for c in content["comparisons"]}
    assert set(found) == {("water", "test/h_mae"), ("water", "test/psi_cosine"), ("equal", "test/h_mae")}
    water = found["water", "test/h_mae"]
    assert water["seeds"] == [0, 1]
    assert water["by_seed"] == pytest.approx([-0.5, -0.4])
    assert water["mean"] == pytest.approx((0.5 * 0.6) ** 0.5 - 1)
    assert found["water", "test/psi_cosine"]["mean"] == pytest.approx(-0.5)  # 1 - psi: 0.2 -> 0.1
    assert found["equal", "test/h_mae"]["mean"] == pytest.approx(5 / 8 - 1)
    assert found["equal", "test/h_mae"]["finding"] == "one seed"
    assert content["missing"] == ["water/tracegrad_seed2", "equal/none_seed1"]
    assert len(content["runs"]) == 6
    assert all(run["validation"] for run in content["runs"])
    assert {file.name for file in path.parent.iterdir()} == {
        *("study.yaml", "results.json", "changes.png", "curves.png")
    }
    assert "2 runs are missing: water/tracegrad_seed2, equal/none_seed1" in capsys.readouterr().out


def test_numbers_that_are_not_finite_are_named_and_left_out(tmp_path, capsys, monkeypatch):
    path, runs = write(tmp_path, CONTENT), tmp_path / "runs"
    for arm in ("none", "tracegrad"):
        for seed in (0, 1):
            write_run(runs / "water" / f"{arm}_seed{seed}", result(arm, seed, 10.0))
    diverged = runs / "water" / "tracegrad_seed1"
    content = result("tracegrad", 1, 10.0)
    content["metrics"]["test/h_mae"] = float("inf")
    (diverged / "results.json").write_text(json.dumps(content))
    with (diverged / "metrics.csv").open("a") as file:
        file.write("0,400,,,,,nan\n0,450,,,,,inf\n")
    assert call(monkeypatch, f"study={path}", "databases=/data", f"runs={runs}", "train=false") == 0
    content = json.loads((path.parent / "results.json").read_text(), parse_constant=pytest.fail)
    assert [c["seeds"] for c in content["comparisons"]] == [[0]]
    run = next(run for run in content["runs"] if (run["arm"], run["seed"]) == ("tracegrad", 1))
    assert run["metrics"]["test/h_mae"] is None
    assert run["validation"][-2:] == [[400, None], [450, None]]
    named = ["water/tracegrad_seed1: test/h_mae", "water/tracegrad_seed1: val/h_mae at step 400"]
    assert content["not_finite"] == named
    assert (
        f"not finite, and left out of the comparisons and figures: {', '.join(named)}"
        in capsys.readouterr().out
    )


def test_recorded_runs_are_compared_and_not_trained_again(tmp_path, monkeypatch):
    """A second machine that has one run of its own and the results of the first."""
    path, runs = write(tmp_path, CONTENT), tmp_path / "runs"
    for arm, seeds in (("none", (0, 1, 2)), ("tracegrad", (0,))):
        for seed in seeds:
            write_run(runs / "water" / f"{arm}_seed{seed}", result(arm, seed, 10.0))
    with (runs / "water" / "none_seed2" / "metrics.csv").open("a") as file:
        file.write("0,450,,,,,inf\n")
    arguments = (f"study={path}", "databases=/data", "train=false")
    assert call(monkeypatch, *arguments, f"runs={runs}") == 0
    recorded = path.parent / "results.json"
    first = recorded.read_text()
    second = (*arguments, f"runs={tmp_path / 'other'}", f"recorded={recorded}", f"output={tmp_path}")
    assert call(monkeypatch, *second) == 0
    assert (tmp_path / "results.json").read_text() == first

    study_file = read_study(str(path))
    groups = groups_to_train(study_file.parts[0], read_recorded(study_file, recorded))
    assert list(groups) == [(("tracegrad",), (1, 2))]
    write_run(tmp_path / "other" / "water" / "tracegrad_seed0", result("tracegrad", 0, 5.0))
    assert call(monkeypatch, *second) == 0
    content = json.loads((tmp_path / "results.json").read_text())
    assert [c["mean"] for c in content["comparisons"] if c["metric"] == "test/h_mae"] == [pytest.approx(-0.5)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"registered": "2020-01-01"}, "registered 2020-01-01; .* is mine registered 2026-01-01"),
        ({"runs": [{"part": "water"}]}, "no results of a study .KeyError: 'arm'.; give the results.json"),
        ({"runs": "change"}, "has no run water/none_seed7"),
    ],
)
def test_records_that_do_not_fit_are_named(tmp_path, monkeypatch, change, message):
    path, runs = write(tmp_path, CONTENT), tmp_path / "runs"
    write_run(runs / "water" / "none_seed0", result("none", 0, 10.0))
    assert call(monkeypatch, f"study={path}", "databases=/data", "train=false", f"runs={runs}") == 0
    file = path.parent / "results.json"
    content = json.loads(file.read_text())
    if change.get("runs") == "change":
        change = {"runs": [{**content["runs"][0], "seed": 7}]}
    file.write_text(json.dumps(content | change))
    with pytest.raises(ConfigError, match=message):
        read_recorded(read_study(str(path)), file)


def test_a_missing_record_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"recorded=.*none\.json: not readable .*; give a results\.json"):
        read_recorded(read_study(str(write(tmp_path, CONTENT))), tmp_path / "none.json")


def test_metrics_of_crystals_with_twisted_cells(tmp_path, monkeypatch):
    path, runs = write(tmp_path, CONTENT), tmp_path / "runs"
    for arm, error in (("none", 10.0), ("tracegrad", 9.0)):
        write_run(runs / "water" / f"{arm}_seed0", crystal_result(arm, 0, error))
    assert call(monkeypatch, f"study={path}", "databases=/data", f"runs={runs}", "train=false") == 0
    found = json.loads((path.parent / "results.json").read_text())["comparisons"]
    assert {c["metric"]: round(c["mean"], 12) for c in found} == {
        "test/h_mae": -0.1,
        "test/h_mae/twisted": -0.1,
    }


@pytest.mark.slow
def test_a_study_trains_what_is_missing_and_goes_on(tmp_path, monkeypatch, capsys):
    settings = [
        *("experiment=demo", "name=tiny", "model.backbone.channels=4", "model.backbone.bottleneck=2"),
        *("model.backbone.lmax=1", "data.train_size=8", "trainer.max_steps=2", "tracegrad.channels=8"),
        *("logger.wandb.mode=disabled", "callbacks.orbitals=null", "callbacks.acceleration=null"),
        *("tracegrad.hidden=8", *PLAIN),
    ]
    part = {"title": "tiny", "arms": ["none", "tracegrad"], "seeds": [3], "settings": settings}
    path = write(tmp_path, {**CONTENT, "parts": {"tiny": part}})
    arguments = (f"study={path}", "databases=/data", f"runs={tmp_path / 'runs'}", "jobs=2")
    summed_up = []
    once = study.summarise
    monkeypatch.setattr(study, "summarise", lambda *place: summed_up.append(place) or once(*place))
    assert call(monkeypatch, *arguments) == 0
    assert len(summed_up) == 1
    first = (path.parent / "results.json").read_text()
    assert json.loads(first)["missing"] == []
    assert [c["seeds"] for c in json.loads(first)["comparisons"]] == [[3]]
    capsys.readouterr()
    assert call(monkeypatch, *arguments) == 0
    assert "2 runs in" in (out := capsys.readouterr().out)
    assert "2 of them finished" in out
    assert (path.parent / "results.json").read_text() == first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parts": {"a": {"title": "a", "arms": ["none"], "seeds": [0]}}}, "KeyError: 'settings'"),
        (
            {"parts": {"a": {"title": "a", "arms": ["half"], "seeds": [0], "settings": []}}},
            "part a: no arm 'half'; choose from",
        ),
        (
            {"parts": {"a": {"title": "", "arms": [], "seeds": [], "settings": [], "colour": 1}}},
            "part a has the unknown key 'colour'",
        ),
        (
            {
                "parts": {
                    "a": {
                        "title": "a",
                        "arms": ["none"],
                        "seeds": [0],
                        "settings": [],
                        "compare": [["b/grad", "none"]],
                    }
                }
            },
            "part a compares b/grad, which is not trained",
        ),
        ({"metrics": {"test/h_mae": {"name": "all"}}}, "unexpected keyword argument 'name'"),
    ],
)
def test_a_study_that_cannot_be_is_named(tmp_path, change, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read_study(str(write(tmp_path, CONTENT | change)))
    assert str(tmp_path / "mine" / "study.yaml") in str(caught.value)


def test_studies_that_are_not_there(tmp_path, monkeypatch, capsys):
    with pytest.raises(ConfigError, match=r"study=none: there is no .*; there are .*what_tracegrad_brings"):
        read_study("none")
    path = write(tmp_path, CONTENT)
    assert call(monkeypatch, f"study={path}", "databases=/data", "parts=[ice]", "train=false") == 1
    assert "has no part 'ice'; it has water, equal" in capsys.readouterr().err
