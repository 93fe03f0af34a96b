import csv
import io
import json
import math
import subprocess
import sys

import pytest

from tests.reports.tables import VALUES, printed, tables_of, write_all
from tests.run_directories import LABELS, result, write_run
from tracegrad.reports.comma_separated import to_csv
from tracegrad.reports.grid import table_grids
from tracegrad.reports.markdown import to_markdown
from tracegrad.reports.results import ResultsError, collect_results, read_run
from tracegrad.reports.structured import to_json


@pytest.fixture
def ablation(tmp_path):
    for arm, values in VALUES.items():
        for seed, value in enumerate(values):
            content = result(arm, seed, value, step=1200 + seed, train_seconds=30 + seed)
            write_run(tmp_path / arm / str(seed), content, files=False)
    return tmp_path


def test_rows_come_in_the_order_of_the_paper(ablation):
    (table,) = tables_of(ablation)
    assert [row.arm for row in table.rows] == ["trivial", "none", "trace", "grad", "tracegrad"]
    assert table.title == "QD, geometry split"
    assert [column.name for column in table.columns] == ["MAE^H_all", "MAE^H_diag", "MAE^H_nondiag"]
    assert table.rows[-1].seeds == (0, 1)
    assert table.rows[-1].steps == (1200, 1201)
    assert table.rows[-1].seconds == 30.5
    assert table.notes == ()


def test_mean_spread_change_and_best_are_right(ablation):
    (table,) = tables_of(ablation)
    cells = {row.arm: row.cells["test/h_mae"] for row in table.rows}
    assert {arm: cell.mean for arm, cell in cells.items()} == {
        "trivial": 123,
        "none": 5,
        "trace": 4.5,
        "grad": 4,
        "tracegrad": 3,
    }
    assert cells["tracegrad"].std == pytest.approx(math.sqrt(2))  # ((2-3)^2 + (4-3)^2) / (2 - 1)
    assert cells["trace"].std == pytest.approx(math.sqrt(0.5))
    assert cells["grad"].std == 0
    assert cells["trivial"].std is None
    changes = {arm: cells[arm].change for arm in ("trace", "grad", "tracegrad")}
    assert changes == pytest.approx({"trace": -10, "grad": -20, "tracegrad": -40})
    assert cells["none"].change is None
    assert cells["trivial"].change is None
    assert [arm for arm, cell in cells.items() if cell.best] == ["tracegrad"]


def test_one_seed_has_no_spread_and_says_so(tmp_path):
    contents = [result("none", 0, 5.0), result("none", 1, 6.0), result("grad", 0, 4.0)]
    (table,) = tables_of(write_all(tmp_path, contents))
    assert table.rows[-1].cells["test/h_mae"].std is None
    assert "one seed, no spread: QHNet+Grad" in table.notes
    assert any("different seeds" in note for note in table.notes)


def test_a_single_run_makes_a_table(tmp_path):
    (table,) = tables_of(write_all(tmp_path, [result("tracegrad", 3, 4.0)]))
    assert table.notes == (
        "one seed in every row: no spread",
        "no run of the plain backbone: no relative changes",
    )
    assert not table.rows[-1].cells["test/h_mae"].best
    text = printed([table])
    assert "best" not in text.replace("best checkpoint", "")
    assert "change against" not in text
    captions = [line for line in text.splitlines() if "seed" in line and "(s)" not in line]
    assert captions == []
    assert "test set, best checkpoint" in text


def test_orbital_columns_show_when_any_row_has_them(tmp_path):
    contents = [result("none", 0, 5.0), result("tracegrad", 0, 4.0), result("tracegrad", 1, 4.0)]
    contents[0]["metrics"] |= {"test/psi_cosine": 0.9}
    contents[1]["metrics"] |= {"test/psi_cosine": 0.8, "test/eps_mae": None}
    (table,) = tables_of(write_all(tmp_path, contents))
    assert [column.name for column in table.columns][3:] == ["Sim(psi)"]
    assert table.rows[1].cells["test/psi_cosine"].best  # higher is better
    assert "QHNet+TraceGrad: Sim(psi) was measured for 1 of 2 seeds" in table.notes
    assert "Sim(psi): higher is better" in printed([table])


def test_a_diverged_run_shows_and_never_is_best(tmp_path):
    (table,) = tables_of(write_all(tmp_path, [result("none", 0, 5.0), result("grad", 0, math.nan)]))
    assert table.rows[1].cells["test/h_mae"].best
    assert "QHNet+Grad: MAE^H_all is not finite for every seed" in table.notes
    assert "nan" in printed([table])
    content = json.loads(to_json([table]), parse_constant=pytest.fail)
    assert content["tables"][0]["rows"][2]["metrics"]["test/h_mae"]["mean"] is None


@pytest.mark.parametrize(
    "change",
    [
        {"database": "other.db"},
        {"split": "mol"},
        {"split_hash": "f" * 16},
        {"backbone": "Other"},
        {"experiment": "other"},
        {"part": "val"},
    ],
)
def test_unlike_runs_never_share_a_row(tmp_path, change):
    tables = tables_of(write_all(tmp_path, [result("none", 0, 5.0), result("none", 1, 3.0, **change)]))
    assert [table.rows[-1].seeds for table in tables] in ([(0,), (1,)], [(1,), (0,)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 0}, "seed 0 of QHNet occurs twice: {0} and {1}"),
        ({"parameters": 7}, "parameters is 123456 in {0}, 7 in {1}"),
        ({"checkpoint": "last"}, "checkpoint is 'best' in {0}, 'last' in {1}"),
        ({"trivial": {"test/h_mae": 99}}, "test/h_mae 123 in {0} and 99 in {1}"),
        ({"counts": {"train": 1, "val": 1, "test": 1}}, "{1} {{'train': 1, 'val': 1, 'test': 1}}"),
    ],
)
def test_runs_that_cannot_be_averaged_are_named(tmp_path, change, message):
    write_all(tmp_path, [result("none", 0, 5.0), {**result("none", 1, 5.0), **change}])
    with pytest.raises(ResultsError) as caught:
        tables_of(tmp_path)
    assert message.format(tmp_path / "run0", tmp_path / "run1") in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": 1, "exper', "not readable as JSON"),
        ("[1]", "no result of a training run"),
        ('{"accuracy": 1}', "no result of a training run"),
        ('{"format": 2}', "format 2, this version reads 1"),
        ('{"format": 1}', "fields ['experiment', "),
        (json.dumps({**result("none", 0, 1.0), "seed": "zero"}), "seed is 'zero', an integer is needed"),
        (json.dumps(result("none", 0, 1.0, metrics={"test/h_mae": "low"})), "metrics.test/h_mae is 'low'"),
        (json.dumps(result("none", 0, 1.0, metrics=3)), "metrics is 3, an object"),
        (json.dumps(result("none", 0, 1.0, unit="hartree")), "unit is 'hartree'"),
        (json.dumps(result("none", 0, 1.0, crystal=1)), "crystal is 1, true or false is needed"),
        (json.dumps(result("none", True, 1.0)), "seed is True, an integer is needed"),
    ],
)
def test_a_damaged_or_foreign_file_is_named(tmp_path, text, message):
    write_run(tmp_path / "good", result("none", 0, 5.0), files=False)
    path = write_run(tmp_path / "worse", result("none", 1, 5.0), files=False) / "results.json"
    path.write_text(text)
    with pytest.raises(ResultsError) as caught:
        collect_results(tmp_path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_missing_results_are_named(tmp_path):
    with pytest.raises(ResultsError, match=r"no results\.json in it; give the directory of a finished"):
        read_run(tmp_path)
    with pytest.raises(ResultsError, match="no such directory"):
        collect_results(tmp_path / "nowhere")
    with pytest.raises(ResultsError, match=r"no results\.json in it or below"):
        collect_results(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_printed_labels_and_numbers_are_whole(ablation, encoding):
    text = printed(tables_of(ablation), encoding)
    lines = text.splitlines()
    for label in ("trivial predictor", *LABELS.values()):
        assert any(line.strip(" |").startswith(label + " ") for line in lines)
    for piece in ("MAE^H_nondiag", "3.000 ± 1.414*", "(-40.0 %)", "1200-1201", "30.5", "123.000"):
        assert piece.replace("±", "±" if encoding == "utf-8" else "+-") in text
    assert "…" not in text


def test_labels_with_brackets_are_no_markup(tmp_path):
    content = result("none", 0, 5.0, label="QHNet [bold]x[/bold]")
    assert "QHNet [bold]x[/bold]" in printed(tables_of(write_all(tmp_path, [content])))


def test_a_run_without_a_timer_and_of_another_part(tmp_path):
    contents = [result("none", seed, 5.0, part="val", train_seconds=None) for seed in (0, 1)]
    del contents[0]["train_seconds"]
    (table,) = tables_of(write_all(tmp_path, contents))
    assert table.rows[-1].seconds is None
    assert "val set, best checkpoint" in printed([table])


def test_markdown(ablation):
    lines = to_markdown(table_grids(tables_of(ablation)[0])).splitlines()
    assert lines[0] == "## QD, geometry split"
    start = "| QHNet+TraceGrad | **3.000 ± 1.414** (-40.0 %) | **6.000 ± 2.828** (-40.0 %) |"
    assert any(line.startswith(start) for line in lines)
    rows = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1
    assert len(rows) == 2 + 5


def test_csv(ablation):
    rows = list(csv.DictReader(io.StringIO(to_csv(tables_of(ablation)))))
    assert [row["arm"] for row in rows] == ["trivial", "none", "trace", "grad", "tracegrad"]
    last = rows[-1]
    assert (last["seeds"], last["steps"], last["parameters"]) == ("0 1", "1200 1201", "123456")
    assert float(last["test/h_mae_diag"]) == 6
    assert float(last["test/h_mae/std"]) == pytest.approx(math.sqrt(2))
    assert float(last["test/h_mae/change"]) == pytest.approx(-40)
    assert (rows[1]["test/h_mae/best"], last["test/h_mae/best"]) == ("0", "1")
    assert rows[0]["test/h_mae/std"] == ""


def test_json(ablation):
    content = json.loads(to_json(tables_of(ablation), ablation))
    assert content["format"] == 1
    row = content["tables"][0]["rows"][-1]
    assert row["runs"] == ["tracegrad/0", "tracegrad/1"]
    assert row["metrics"]["test/h_mae"]["values"] == [2, 4]
    assert str(ablation) not in json.dumps(content)


def test_tables_need_neither_hydra_nor_lightning():
    modules = "tracegrad.reports.terminal, tracegrad.reports.structured, tracegrad.reports.comma_separated"
    code = f"import sys, {modules}; print(sorted({{'hydra', 'lightning', 'torch'}} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_runs_that_repeat_a_seed_are_told_apart(tmp_path):
    contents = [result("none", 42, 5.0 + i, repetition=i) for i in range(3)]
    (table,) = tables_of(write_all(tmp_path, contents))
    (row,) = table.arms
    assert row.cells["test/h_mae"].values == (5, 6, 7)
    text = printed([table])
    assert "42 (3 times)" in text
    assert "seed 42 is repeated, as in the paper: its spread is only the noise of the hardware" in text
    line = list(csv.DictReader(io.StringIO(to_csv([table]))))[-1]
    assert (line["seeds"], line["repetitions"]) == ("42 42 42", "0 1 2")
    write_run(tmp_path / "again", contents[2], files=False)
    with pytest.raises(ResultsError, match="seed 42, repetition 2 of QHNet occurs twice: "):
        tables_of(tmp_path)


def test_results_of_before_repetitions_are_read(tmp_path):
    contents = [result("none", 3, 5.0, repetition=None), result("none", 4, 5.0)]
    runs = collect_results(write_all(tmp_path, contents))
    assert [(run.repetition_key, run.repetition_name, run.variant) for run in runs] == [
        ((3, 0), "seed 3", ""),
        ((4, 0), "seed 4", ""),
    ]


def test_further_quantities_stand_in_grids_of_their_own(tmp_path):
    contents = [result("none", seed, 5.0) for seed in (0, 1)]
    for seed, content in enumerate(contents):
        content["metrics"] |= {
            "test/achieved_ratio_minao": 0.6 + 0.1 * seed,
            "test/achieved_ratio_minao_std": 0.05,
            "test/inference_seconds": 0.25,
            "test/inference_batch_size": 1.0,
            "test/homo_error": 12.0,
            "test/scf_molecules": 50.0,
        }
    (table,) = tables_of(write_all(tmp_path, contents))
    grids = {grid.title: grid for grid in table_grids(table)}
    assert list(grids) == [
        "QD, geometry split",
        "QD, geometry split: further quantities of the predicted Hamiltonian",
        "QD, geometry split: acceleration of the self-consistent field",
        "QD, geometry split: self-consistent field from the predicted Hamiltonian",
        "QD, geometry split: inference time",
    ]
    cells = [[cell.value for cell in grid.lines[-1].cells] for grid in grids.values()]
    assert cells[1:] == [["12.000 ± 0.000"], ["0.650 ± 0.050"], ["50"], ["0.2500 ± 0.0000", "1"]]
    assert "mean ± standard deviation over molecules, each averaged over seeds" in printed([table])
