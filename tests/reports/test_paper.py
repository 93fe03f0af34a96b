"""The numbers of the paper, and their comparison with runs."""

import csv
import io

import pytest

from tests.run_directories import LABELS, crystal_result, paper_result, write_run
from tracegrad.data.published import PUBLISHED
from tracegrad.reports.comma_separated import paper_csv
from tracegrad.reports.comparison import results_table
from tracegrad.reports.grid import paper_grid
from tracegrad.reports.markdown import to_markdown
from tracegrad.reports.paper import compare_with_paper, paper_database, paper_tables
from tracegrad.reports.results import collect_results

TABLES = {table.number: table for table in paper_tables()}
H = "test/h_mae"


def printed(number, database, arm, key):
    """A number of the paper."""
    rows = [row for row in TABLES[number].rows if (row.database, row.arm) == (database, arm)]
    return rows[0].cells[key]


@pytest.mark.parametrize(
    ("number", "database", "arm", "key", "value"),
    [
        ("1", "MG", "none", H, 0.251),
        ("1", "MM", "tracegrad", f"{H}_cha_b", 0.808),
        ("1", "BG", "tracegrad", H, 0.291),
        ("1", "BB", "none", f"{H}_cha_b/twisted", 2.399),
        ("1", "BT", "tracegrad", f"{H}_cha_s/twisted", 0.755),
        ("1", "BS", "none", f"{H}/twisted", 0.370),
        ("2", "QS", "tracegrad", H, 1.191),
        ("2", "QD", "none", "test/eps_mae", 264.483),
        ("2", "QD", "tracegrad", "test/psi_cosine", 0.927),
        ("6", "MM", "grad", f"{H}_cha_s", 0.453),
        ("7", "BG", "trace", f"{H}_cha_b/twisted", 0.480),
        ("7", "BS", "grad", H, 0.343),
        ("8", "MM", "none", H, 0.21),
        ("I", "QD", "tracegrad", "test/inference_seconds", 0.187),
    ],
)
def test_numbers_are_those_of_the_paper(number, database, arm, key, value):
    assert printed(number, database, arm, key).mean == value


def test_accelerations_have_their_spread():
    cell = printed("3", "QS", "none", "test/error_level_ratio_1e")
    assert (cell.mean, cell.std) == (0.620, 0.037)
    cell = printed("3", "QD", "tracegrad", "test/achieved_ratio_minao")
    assert (cell.mean, cell.std) == (0.761, 0.167)


def largest_reduction(number, keys):
    cells = [row.cells[key] for row in TABLES[number].rows for key in keys if key in row.cells]
    return max(-cell.change for cell in cells if cell.change is not None)


def test_changes_are_those_that_the_text_quotes():
    # Section 6.2, of the crystals: "up to 34% and 35%", and for the worst blocks "a maximum of 48%".
    assert round(largest_reduction("1", [H, f"{H}/twisted"])) == 34
    assert round(largest_reduction("1", [f"{H}_cha_s", f"{H}_cha_s/twisted"])) == 35
    assert round(largest_reduction("1", [f"{H}_cha_b", f"{H}_cha_b/twisted"])) == 48
    # Of the molecules: "up to 40%, 39%, 40%, 76%, and 17%"; the text cuts 39.7 % and rounds the others.
    assert round(largest_reduction("2", [H])) == 40
    assert int(largest_reduction("2", [f"{H}_diag"])) == 39
    assert round(largest_reduction("2", [f"{H}_nondiag"])) == 40
    assert round(largest_reduction("2", ["test/eps_mae"])) == 76
    assert round(printed("2", "QD", "tracegrad", "test/psi_cosine").change) == 17


def test_the_ablations_hold_the_numbers_of_table_1():
    for number, databases in (("6", ("MG", "MM")), ("7", ("BG", "BB", "BT", "BS"))):
        assert TABLES[number].databases == databases
        for row in TABLES["1"].rows:
            if row.database in databases:
                same = next(r for r in TABLES[number].rows if (r.database, r.arm) == (row.database, row.arm))
                assert same == row
        # "their combination provides even better performance": every arm is better than the baseline.
        changes = [c.change for row in TABLES[number].rows for c in row.cells.values() if row.arm != "none"]
        assert max(changes) < 0


def test_each_table_is_whole():
    # Numbers of rows and values of each table, without the empty items of DeepH-2.
    sizes = {"1": 2 * (2 * 3 + 4 * 6), "2": 20, "3": 16, "6": 24, "7": 96, "8": 7, "I": 8}
    assert {n: sum(len(row.cells) for row in t.rows) for n, t in TABLES.items()} == sizes
    assert all(row.database in PUBLISHED for table in TABLES.values() for row in table.rows)


def ours(value):
    return {H: value, f"{H}/twisted": value / 2}


@pytest.fixture
def compared(tmp_path):
    """Tables of two arms on MG and four on BG with two seeds, and of one run on other data."""
    for seed in (0, 1):
        for i, arm in enumerate(("none", "tracegrad")):
            content = paper_result("MG", arm, seed, {H: 0.25 - 0.05 * i + 0.01 * seed})
            write_run(tmp_path / f"mg_{arm}_{seed}", content, files=False)
        for i, arm in enumerate(LABELS):
            content = paper_result("BG", arm, seed, ours(0.4 - 0.04 * i))
            write_run(tmp_path / f"bg_{arm}_{seed}", content, files=False)
    write_run(tmp_path / "demo", crystal_result("none", 0, 1.0, database_label="demo"), files=False)
    return compare_with_paper(results_table(collect_results(tmp_path)))


def test_runs_stand_beside_the_paper(compared):
    tables, notes = compared
    assert notes == []
    # Neither +Trace nor +Grad was run on a monolayer, so Table 6 would only repeat Table 1.
    assert [table.paper.number for table in tables] == ["1", "7"]
    first, seventh = tables
    assert [section.title for section in first.sections] == ["MG", "BG"]
    assert "no run on MM, BB, BT, BS" in first.notes
    line = first.sections[0].lines[1]
    assert (line.method, line.ours.arm, line.paper.arm) == ("DeepH-E3+TraceGrad", "tracegrad", "tracegrad")
    assert line.ours.cells[H].mean == pytest.approx(0.205)
    assert line.ours.cells[H].change == pytest.approx(100 * (0.205 / 0.255 - 1))
    assert line.paper.cells[H].change == pytest.approx(100 * (0.175 / 0.251 - 1))
    assert [line.ours.arm for line in seventh.sections[0].lines] == list(LABELS)


def test_the_paper_is_a_row_below_ours(compared):
    text = to_markdown([paper_grid(compared[0][0])])
    ours = next(line for line in text.splitlines() if line.startswith("| DeepH-E3+TraceGrad |"))
    below = text.splitlines()[text.splitlines().index(ours) + 1]
    assert "0.205 ± 0.007** (-19.6 %)" in ours
    assert below.startswith(
        "| &nbsp;&nbsp;paper | **0.175** (-30.3 %) | **0.257** (-28.0 %) | **0.228** (-37.0 %) | - "
    )


def test_csv_has_both(compared):
    rows = list(csv.DictReader(io.StringIO(paper_csv(compared[0]))))
    row = next(
        r for r in rows if (r["table"], r["database"], r["arm"], r["metric"]) == ("7", "BG", "grad", H)
    )
    assert float(row["ours"]) == pytest.approx(0.32)
    assert float(row["ours_change"]) == pytest.approx(-20)
    assert (float(row["paper"]), row["seeds"]) == (0.320, "0 1")
    assert float(row["paper_change"]) == pytest.approx(100 * (0.320 / 0.389 - 1))
    assert "2405.05722" in row["source"]


def test_an_arm_that_was_not_run_is_shown(tmp_path):
    write_run(tmp_path / "run", paper_result("MM", "grad", 0, {H: 0.3}), files=False)
    tables, _ = compare_with_paper(results_table(collect_results(tmp_path)))
    grid = paper_grid(next(table for table in tables if table.paper.number == "6"))
    labels = [line.label for line in grid.lines]
    assert labels[:3] == ["MM", "DeepH-E3 (paper; not run)", "DeepH-E3+Trace (paper; not run)"]


def test_backbones_of_table_8(tmp_path):
    for arm in ("none", "tracegrad"):
        write_run(tmp_path / arm, paper_result("MM", arm, 0, {H: 0.3}), files=False)
    other = paper_result("MM", "none", 0, {H: 0.2}, label="HarmoSE-style", backbone="HarmoSE-style")
    write_run(tmp_path / "harmose", other, files=False)
    tables, _ = compare_with_paper(results_table(collect_results(tmp_path)))
    eighth = next(table for table in tables if table.paper.number == "8")
    (section,) = eighth.sections
    found = [(line.method, line.ours is not None, line.paper is not None) for line in section.lines]
    assert found == [
        ("DeepH-2", False, True),
        ("HarmoSE", True, True),
        ("HarmoSE+TraceGrad", False, True),
        ("DeepH-E3", True, False),
        ("DeepH-E3+TraceGrad", True, False),
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"split": "random"}, "its split is 'random', that of the paper 'ood'"),
        ({"part": "val"}, "its errors are those of the val set"),
        (
            {"counts": {"train": 5, "val": 5, "test": 5}},
            "its data are 5 train, 5 val, 5 test, those of the paper",
        ),
        ({"database_label": "mine"}, None),
    ],
)
def test_other_data_never_stand_beside_the_paper(tmp_path, change, reason):
    content = paper_result("QS", "none", 0, {H: 2.0})
    for name, entries in (("same", {}), ("other", change)):
        write_run(tmp_path / name / "run", {**content, **entries}, files=False)
    (same,) = results_table(collect_results(tmp_path / "same"))
    (other,) = results_table(collect_results(tmp_path / "other"))
    assert paper_database(same) == ("QS", None)
    database, why = paper_database(other)
    assert database is None
    assert why is None if reason is None else why.startswith(reason)
    tables, notes = compare_with_paper([other])
    assert tables == []
    assert len(notes) == (reason is not None)


def test_accelerations_are_quoted_over_molecules(tmp_path):
    key = "test/achieved_ratio_1e"
    for seed, value in ((0, 0.3), (1, 0.4)):
        metrics = {H: 1.0, key: value, f"{key}_std": 0.02 + 0.02 * seed}
        write_run(tmp_path / str(seed), paper_result("QD", "none", seed, metrics), files=False)
    tables, _ = compare_with_paper(results_table(collect_results(tmp_path)))
    third = next(table for table in tables if table.paper.number == "3")
    cell = third.sections[0].lines[0].ours.cells[key]
    assert cell.mean == pytest.approx(0.35)
    assert cell.std == pytest.approx(
        0.03
    )  # the spread over molecules averaged over seeds, not the spread over seeds
    assert "0.350 ± 0.030" in to_markdown([paper_grid(third)])
    assert "| 0.512 ± 0.138 |" in to_markdown([paper_grid(third)])
