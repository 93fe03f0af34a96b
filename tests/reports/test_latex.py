"""LaTeX: no text of a run acts as a command, and the document is well-formed (checked without a compiler)."""

import re

import pytest

from tests.run_directories import LABELS, crystal_result, paper_result, result, write_run
from tracegrad.reports.comparison import results_table
from tracegrad.reports.grid import Grid, GridCell, GridHead, GridLine, all_grids
from tracegrad.reports.latex import escaped, to_latex
from tracegrad.reports.paired import paired_differences
from tracegrad.reports.paper import compare_with_paper
from tracegrad.reports.results import collect_results

# Commands and environments that the output may have; everything else in texts of a run is escaped.
COMMANDS = {
    "documentclass",
    "usepackage",
    "begin",
    "end",
    "centering",
    "caption",
    "toprule",
    "midrule",
    "bottomrule",
    "multicolumn",
    "textbf",
    "textit",
    "quad",
    "footnotesize",
    "resizebox",
    "textwidth",
    "leftmargin",
    "itemsep",
    "parsep",
    "item",
    "mathrm",
    "epsilon",
    "psi",
    "pm",
    "textbackslash",
    "textasciitilde",
    "textasciicircum",
    "textless",
    "textgreater",
    "textbar",
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("50 % of a_b & c#d", r"50 \% of a\_b \& c\#d"),
        (r"\input{x}", r"\textbackslash{}input\{x\}"),
        ("$x^2$ ~ {y}", r"\$x\textasciicircum{}2\$ \textasciitilde{} \{y\}"),
        ("1.0 ± 0.1 [0, 1]", r"1.0 $\pm$ 0.1 {[}0, 1{]}"),
        ("a < b | c > d", r"a \textless{} b \textbar{} c \textgreater{} d"),
        ("λ=0.3", "?=0.3"),
    ],
)
def test_text_holds_no_commands(text, expected):
    assert escaped(text) == expected


def checked(document):
    """The tables of a document, after checks of its commands, braces, environments and columns."""
    bare = re.sub(r"\\[\\{}$&#_%]", "", document)  # escaped characters and line ends
    assert set(re.findall(r"\\([A-Za-z]+)", bare)) <= COMMANDS
    assert bare.count("$") % 2 == 0
    depth = 0
    for character in bare:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
    opened = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", document):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert opened == []
    tables = re.findall(r"\\begin\{tabular\}\{(l(?:r*))\}(.*?)\\end\{tabular\}", document, re.S)
    for columns, body in tables:
        for row in re.findall(r"^(.*) \\\\$", body, re.M):
            if not row.startswith(r"\multicolumn"):
                assert len(re.findall(r"(?<!\\)&", row)) == len(columns) - 1
    return tables


def test_the_document_of_a_report_is_well_formed(tmp_path):
    for seed in (0, 1):
        for arm in LABELS:
            crystals = crystal_result(arm, seed, 5.0, label=f"{LABELS[arm]} & 50 % of_it")
            write_run(tmp_path / f"crystals_{arm}_{seed}", crystals)
            write_run(tmp_path / f"{arm}_{seed}", result(arm, seed, 5.0))
            numbers = {"test/h_mae": 2.0, "test/psi_cosine": 0.9, "test/achieved_ratio_1e": 0.4}
            write_run(tmp_path / f"qd_{arm}_{seed}", paper_result("QD", arm, seed, numbers), files=False)
    tables = results_table(collect_results(tmp_path))
    grids = all_grids(tables, [paired_differences(t) for t in tables], compare_with_paper(tables)[0])
    document = to_latex(grids)
    assert len(checked(document)) == len(grids) == 9
    assert document.isascii()
    assert r"QHNet \& 50 \% of\_it & " in document
    assert r"$\mathrm{MAE}^{H}_{\mathrm{cha\_s}}$$^{\mathrm{nt}}$" in document
    assert r"\textit{\quad paper} & " in document
    assert r"\usepackage{booktabs}" in document


def test_the_best_value_is_bold():
    head = GridHead("MAE", "$\\mathrm{MAE}$", "meV")
    lines = (GridLine("a", (GridCell("1.0", "(-50.0 %)", True),)), GridLine("b", (GridCell("2.0"),)))
    document = to_latex([Grid("title", "sub", "method", (head,), lines, ("{best}: best",))])
    ((_, body),) = checked(document)
    assert r"a & \textbf{1.0} {\footnotesize (-50.0 \%)} \\" in body
    assert r"b & 2.0 \\" in body
    assert r"\item[] bold: best" in document
