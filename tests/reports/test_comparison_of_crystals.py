"""Tables of crystals: subsets, the hardest samples and blocks, and their baseline."""

import csv
import io
import json
import math

import pytest

from tests.reports.tables import VALUES, printed, tables_of
from tests.run_directories import crystal_result, result, write_run, write_samples
from tracegrad.errors import ConfigError
from tracegrad.reports.comma_separated import to_csv
from tracegrad.reports.grid import table_grids
from tracegrad.reports.markdown import to_markdown
from tracegrad.reports.results import ResultsError, read_run
from tracegrad.reports.structured import challenge_json, to_json


@pytest.fixture
def crystals(tmp_path):
    for i, arm in enumerate(VALUES):
        for seed in (0, 1):
            write_run(tmp_path / f"{arm}_seed{seed}", crystal_result(arm, seed, 10.0 + i + seed))
    return tmp_path


CRYSTAL_COLUMNS = [
    "MAE^H_all (nt)",
    "MAE^H_cha_s (nt)",
    "MAE^H_cha_b (nt)",
    "MAE^H_all (t)",
    "MAE^H_cha_s (t)",
    "MAE^H_cha_b (t)",
]


def test_crystals_have_the_columns_of_the_paper(crystals):
    (table,) = tables_of(crystals)
    assert [column.name for column in table.columns] == CRYSTAL_COLUMNS
    assert table.challenge.baseline == crystals / "none_seed0"
    assert table.rows[0].cells.keys() == {"test/h_mae", "test/h_mae/twisted"}  # the trivial predictor
    none, tracegrad = table.rows[1], table.rows[-1]
    # Every run is measured at shift_6 and 2s x 1p, where the plain backbone with seed 0 has its largest errors.
    assert none.cells["test/h_mae_cha_s"].values == (12, 13)
    assert none.cells["test/h_mae_cha_b"].values == (16, 17)
    assert tracegrad.cells["test/h_mae_cha_s"].values == (9, 10)
    assert tracegrad.cells["test/h_mae_cha_b/twisted"].values == (20, 22)
    assert tracegrad.cells["test/h_mae_cha_s"].best
    assert tracegrad.cells["test/h_mae_cha_s"].change == pytest.approx(100 * (9.5 / 12.5 - 1))


def test_footnotes_say_what_is_hard_for_whom(crystals):
    (table,) = tables_of(crystals, worst=2)
    text = printed([table])
    assert "structures: 10 train, 3 val, 2 test, 2 twisted;" in text
    assert (
        "MAE_cha: the worst 2 samples (s) and the worst basic block (b) of DeepH-E3, seed 0 "
        f"({crystals / 'none_seed0'}); k = 2 is our choice, the paper gives none"
    ) in text
    assert "MAE_cha (nt): s = shift_6, shift_3; b = 2s x 1p" in text
    assert "- MAE_cha (t): s = twist_17, twist_16; b = 1d x 1d" in to_markdown(table_grids(table))
    assert table.footnotes[0] in json.loads(to_json([table]))["tables"][0]["footnotes"]


@pytest.mark.parametrize(("width", "parts"), [(60, 2), (200, 1)])
def test_wide_tables_continue_below(crystals, width, parts):
    tables = tables_of(crystals)
    lines = printed(tables, width=width).splitlines()
    for label in ("trivial predictor", "DeepH-E3", "DeepH-E3+TraceGrad"):
        assert sum(line.strip().startswith(label + " ") for line in lines) == parts
    text = "".join(lines)
    assert "…" not in text
    assert text.count("MAE^H_cha_b") == 2 + sum("MAE^H_cha_b" in note for note in tables[0].footnotes)
    rows = [line for line in lines if line.startswith(" ")]
    assert max(map(len, rows)) <= max(width, 100)


def test_without_subsets_there_are_no_marks(tmp_path):
    content = crystal_result("none", 0, 10.0, metrics={"test/h_mae": 10.0})
    directory = write_run(tmp_path / "run", content)
    write_samples(directory, [(3, "shift_3", "", 9.0), (6, "shift_6", "", 11.0)])
    (table,) = tables_of(tmp_path)
    assert [column.name for column in table.columns] == ["MAE^H_all", "MAE^H_cha_s", "MAE^H_cha_b"]
    assert "MAE_cha: s = shift_6; b = 2s x 1p" in printed([table])  # also of a single run


def test_a_table_of_twisted_crystals_alone_says_so(tmp_path):
    content = crystal_result("none", 0, 10.0, metrics={"test/h_mae/twisted": 10.0})
    write_run(tmp_path / "run", content, files=False)
    (table,) = tables_of(tmp_path)
    assert [column.name for column in table.columns] == ["MAE^H_all (t)"]


def test_the_baseline_can_be_another_run(crystals, tmp_path_factory):
    elsewhere = write_run(tmp_path_factory.mktemp("other") / "run", crystal_result("none", 7, 50.0))
    write_samples(elsewhere, [(3, "shift_3", "", 52.0), (6, "shift_6", "", 48.0)])
    (table,) = tables_of(crystals, baseline=read_run(elsewhere))
    assert table.challenge.baseline == elsewhere
    assert table.rows[1].cells["test/h_mae_cha_s"].values == (10, 11)
    content = json.loads(challenge_json([table], elsewhere.parent))["challenges"][0]
    assert (content["baseline"], content["k"]) == ("run", 1)
    assert content["subsets"][0] == {
        "subset": "",
        "samples": [{"row": 3, "name": "shift_3", "h_mae": 52}],
        "block": ["2s", "1p"],
        "block_mae": 55,
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (crystal_result("grad", 7, 5.0), "is a run of DeepH-E3.Grad; the baseline of MAE_cha must be one"),
        (crystal_result("none", 7, 5.0, split_hash="f" * 16), "no table of crystals has these data"),
        (result("none", 7, 5.0), "no table of crystals has these data"),
        (crystal_result("none", 7, 5.0, trivial={"test/h_mae": 9}), "these runs saw different data"),
    ],
)
def test_a_baseline_that_does_not_fit_is_refused(crystals, tmp_path_factory, content, message):
    elsewhere = write_run(tmp_path_factory.mktemp("other") / "run", content)
    with pytest.raises(ResultsError, match=message) as caught:
        tables_of(crystals, baseline=read_run(elsewhere))
    assert str(elsewhere) in str(caught.value)


def test_without_a_baseline_the_columns_are_left_out(tmp_path):
    write_run(tmp_path / "run", crystal_result("grad", 0, 10.0))
    (table,) = tables_of(tmp_path)
    assert [column.name for column in table.columns] == ["MAE^H_all (nt)", "MAE^H_all (t)"]
    assert table.challenge is None
    assert "no run of the plain backbone: no MAE_cha" in printed([table])


def test_a_baseline_without_its_errors(crystals):
    path = crystals / "none_seed0" / "test_samples.csv"
    path.unlink()
    (table,) = tables_of(crystals)
    assert table.footnotes == (
        f"no MAE_cha: {path} is missing; train with callbacks.test_report, which writes it",
    )
    assert len(table.columns) == 2
    with pytest.raises(ResultsError, match=f"{path} is missing"):  # a chosen baseline needs its tables
        tables_of(crystals, baseline=read_run(crystals / "none_seed0"))


def test_a_run_without_its_errors_is_noted(crystals):
    path = crystals / "grad_seed1" / "block_mae.csv"
    path.unlink()
    (table,) = tables_of(crystals)
    grad = next(row for row in table.rows if row.arm == "grad")
    assert len(grad.cells["test/h_mae_cha_s"].values) == 1
    assert table.notes[0].startswith(f"DeepH-E3+Grad, seed 1: no MAE_cha, {path} is missing")
    assert "DeepH-E3+Grad: MAE^H_cha_b (t) was measured for 1 of 2 seeds" in table.notes


def test_runs_on_other_samples_are_refused(crystals):
    write_samples(crystals / "grad_seed1", [(5, "shift_6", "", 1.0)])
    with pytest.raises(ResultsError, match="no sample 'shift_6' in row 6"):
        tables_of(crystals)


def test_more_samples_than_there_are(crystals):
    with pytest.raises(ConfigError, match="worst is 3, but the test set has 2 samples"):
        tables_of(crystals, worst=3)


def test_csv_of_crystals(crystals):
    last = list(csv.DictReader(io.StringIO(to_csv(tables_of(crystals)))))[-1]
    assert float(last["test/h_mae_cha_b/twisted"]) == 21
    assert float(last["test/h_mae_cha_b/twisted/std"]) == pytest.approx(math.sqrt(2))
