import json

import pytest

from tests.run_directories import result, write_run
from tracegrad.reports.comparison import results_table
from tracegrad.reports.manifest import read_manifests, with_variants
from tracegrad.reports.results import collect_results


def write_manifest(directory, points):
    (directory / "manifest.json").write_text(json.dumps({"format": 1, "points": points}))


def point(name, *overrides, status="finished", **more):
    return {"name": name, "directory": name, "status": status, "overrides": list(overrides), **more}


@pytest.fixture
def grid(tmp_path):
    """A sweep over two values of a setting with two seeds each; one of its runs has failed."""
    directory = tmp_path / "qs_lambda"
    points = []
    for weight in (0.1, 0.2):
        for seed in (0, 1):
            name = f"w{weight}_seed{seed}"
            overrides = ["experiment=qs", f"loss.trace_weight={weight}", f"seed={seed}", f"run_dir='{name}'"]
            if (weight, seed) == (0.2, 1):
                points.append(point(name, *overrides, status="failed", error="no space\nleft"))
                continue
            points.append(point(name, *overrides))
            write_run(directory / name, result("tracegrad", seed, 10 * weight + seed), files=False)
    write_manifest(directory, points)
    return directory


def test_runs_without_a_result_are_named(grid):
    (manifest,) = read_manifests(grid.parent)
    assert [point.state for point in manifest.points if point.missing] == [
        "w0.2_seed1: failed (no space left)"
    ]


def test_points_of_a_grid_are_rows_of_one_table(grid):
    runs = with_variants(collect_results(grid), read_manifests(grid))
    (table,) = results_table(runs)
    assert table.experiment == "qs_lambda"
    rows = {row.label: row.cells["test/h_mae"].values for row in table.arms}
    assert rows == {
        "QHNet+TraceGrad, loss.trace_weight=0.1": (1, 2),
        "QHNet+TraceGrad, loss.trace_weight=0.2": (2,),
    }
    assert table.row("tracegrad") is None  # no row of the paper


def test_runs_that_differ_in_arm_and_seed_only_have_no_variant(tmp_path):
    points = []
    for arm in ("none", "grad"):
        name = f"{arm}_seed0"
        points.append(point(name, f"tracegrad={arm}", "seed=0", "logger.wandb.group=demo"))
        write_run(tmp_path / name, result(arm, 0, 1.0), files=False)
    write_manifest(tmp_path, points)
    runs = with_variants(collect_results(tmp_path), read_manifests(tmp_path))
    assert runs == collect_results(tmp_path)


def test_a_sweep_that_was_moved_is_still_known(grid):
    moved = grid.rename(grid.with_name("elsewhere"))
    content = json.loads((moved / "manifest.json").read_text())
    for entry in content["points"]:
        entry["directory"] = f"/old/place/{entry['name']}"
    (moved / "manifest.json").write_text(json.dumps(content))
    (manifest,) = read_manifests(moved)
    assert sum(point.missing for point in manifest.points) == 1


@pytest.mark.parametrize("text", ["", "[]", '{"points": 3}', '{"points": [3]}', '{"files": []}'])
def test_other_files_of_the_name_are_no_manifests(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    assert read_manifests(tmp_path) == []


def test_a_run_with_a_name_only_has_a_state(tmp_path):
    write_manifest(tmp_path, [{"name": "a"}])
    (manifest,) = read_manifests(tmp_path)
    assert manifest.points[0].state == "a: not run"


def test_only_what_the_sweep_varies_tells_rows_apart(tmp_path):
    """A sweep whose arms were run by two commands, with different settings of the machine."""
    points = []
    for arm, how in (("none", "threads=1"), ("grad", "data.num_workers=1")):
        name = f"{arm}_seed0"
        points.append(point(name, f"tracegrad={arm}", how, "seed=0"))
        write_run(tmp_path / name, result(arm, 0, 1.0), files=False)
    content = {"format": 1, "definition": {"grid": {"tracegrad": ["grad"]}}, "points": points}
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    runs = with_variants(collect_results(tmp_path), read_manifests(tmp_path))
    assert [run.variant for run in runs] == ["", ""]
