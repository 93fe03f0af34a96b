"""The lines of a report on tables and figures of the paper that it lacks."""

import numpy as np
import pytest
from rich.console import Console

from experiments.report import make_report, print_report
from experiments.reporting.figures import absent_figures
from tests.run_directories import LABELS, paper_result, result, write_blocks, write_run
from tracegrad.backbones.deeph2 import DeepH2
from tracegrad.backbones.deeph_e3 import DeepHE3
from tracegrad.backbones.harmose import HarmoSE
from tracegrad.backbones.known import known_backbones
from tracegrad.backbones.qhnet import QHNet
from tracegrad.reports.absent import absent_lines, absent_tables
from tracegrad.reports.comparison import results_table
from tracegrad.reports.grid import paper_grid
from tracegrad.reports.paper import compare_with_paper
from tracegrad.reports.results import collect_results

H = "test/h_mae"
TIMES = {"test/inference_seconds": 0.2, "test/inference_batch_size": 1.0}
SKETCH = "Fig. 1: is a sketch of the method, which no command draws"


def test_backbones_are_those_of_the_package():
    assert set(known_backbones()) == {DeepH2, DeepHE3, HarmoSE, QHNet}


def lines(tmp_path):
    tables = results_table(collect_results(tmp_path))
    compared, _ = compare_with_paper(tables)
    return absent_lines(absent_tables(tables, compared) + absent_figures(tables)), compared


def test_other_data_than_the_paper_s(tmp_path):
    write_run(tmp_path / "run", result("none", 0, 5.0, database_label="demo"), files=False)
    absent, _ = lines(tmp_path)
    assert absent == [
        "Tables 1, 2, 3, 6, 7 and 8, Appendix I, Figs. 5 and 6: no run is on a database of the paper",
        "Fig. 7: no runs of DeepH-2-style or HarmoSE-style, with and without TraceGrad, with block_mae.csv on a "
        "database of the paper",
        SKETCH,
    ]


def test_each_table_tells_what_its_runs_lack(tmp_path):
    write_run(tmp_path / "qs", paper_result("QS", "none", 0, {H: 2.0}), files=False)
    write_run(tmp_path / "mg", paper_result("MG", "none", 42, {H: 0.3}), files=False)
    absent, compared = lines(tmp_path)
    assert [table.paper.number for table in compared] == ["1", "2"]
    assert absent[:2] == [
        "Table 3: no run with accelerations (acceleration.csv: a test of molecules or tracegrad "
        "accelerate writes it) on QS",
        "Table 3: no run on QD",
    ]
    assert "Table 6: no run of +Trace or +Grad, without which it repeats Table 1, on MG" in absent
    assert "Tables 6 and 8: no run on MM" in absent
    assert "Table 7: no run on BG, BB, BT or BS" in absent
    times = "tracegrad evaluate run=DIRECTORY callbacks=appendix_i measures them"
    assert f"Appendix I: no run with inference times ({times}) on MG or QS" in absent
    assert "Fig. 5: no runs of DeepH-E3 and DeepH-E3+TraceGrad with block_mae.csv on MG or MM" in absent


def test_a_table_says_which_of_its_databases_lack_what(tmp_path):
    write_run(tmp_path / "qs", paper_result("QS", "none", 0, {H: 2.0, **TIMES}), files=False)
    write_run(tmp_path / "qd", paper_result("QD", "none", 0, {H: 2.0}), files=False)
    _, compared = lines(tmp_path)
    times = next(table for table in compared if table.paper.number == "I")
    assert "no run on MG, MM" in times.notes
    assert any(
        note.startswith("no run with inference times (") and note.endswith(" on QD") for note in times.notes
    )


@pytest.fixture
def monolayers(tmp_path):
    """All arms on MG and MM with block errors."""
    for database in ("MG", "MM"):
        for arm in LABELS:
            content = paper_result(database, arm, 42, {H: 1.0, **TIMES})
            directory = write_run(tmp_path / f"{database}_{arm}", content, files=False)
            write_blocks(directory / "block_mae.csv", np.full((6, 6), 1.0))
    return tmp_path


def test_rows_of_networks_without_runs_are_those_of_the_paper(monolayers):
    absent, compared = lines(monolayers)
    eighth = next(table for table in compared if table.paper.number == "8")
    assert [line.label for line in paper_grid(eighth).lines][1:4] == [
        "DeepH-2 (paper; not run)",
        *(f"{method} (paper; not run)" for method in ("HarmoSE", "HarmoSE+TraceGrad")),
    ]
    assert not any(line.startswith("Table 8") for line in absent)  # the notes of the table say it
    assert not any(line.startswith("Fig. 5") for line in absent)


def test_they_become_ordinary_rows_where_there_are_runs(monolayers):
    for arm in ("none", "tracegrad"):
        label = "HarmoSE-style" + ("+TraceGrad" if arm == "tracegrad" else "")
        content = paper_result("MM", arm, 42, {H: 0.2}, label=label, backbone="HarmoSE-style")
        directory = write_run(monolayers / f"harmose_{arm}", content, files=False)
        if arm == "none":
            write_blocks(directory / "block_mae.csv", np.full((6, 6), 1.0))
    absent, compared = lines(monolayers)
    eighth = next(table for table in compared if table.paper.number == "8")
    assert [line.label for line in paper_grid(eighth).lines][1:4] == [
        "DeepH-2 (paper; not run)",
        "HarmoSE-style",
        "  paper",
    ]
    (seventh,) = [line for line in absent if line.startswith("Fig. 7")]
    assert seventh.startswith("Fig. 7: no runs of DeepH-2-style or HarmoSE-style, with and without TraceGrad")
    write_blocks(directory / "block_mae.csv", np.full((6, 6), 1.0))
    assert not any(line.startswith("Fig. 7") for line in lines(monolayers)[0])


def test_every_form_of_the_report_says_it(tmp_path):
    write_run(tmp_path / "run", result("none", 0, 5.0, database_label="demo"), files=False)
    report = make_report(tmp_path)
    console = Console(width=300, record=True, file=(tmp_path / "out").open("w"))
    print_report(report, console)
    console.file.close()
    printed = console.export_text()
    assert f"Not in this report:\n  {report.absent[0]}\n" in printed
    for name, line in (
        ("table.md", f"- {SKETCH}\n"),
        ("table.tex", f"\\item {SKETCH}\n"),
        ("table.json", SKETCH),
    ):
        assert line in (tmp_path / "report" / name).read_text()
