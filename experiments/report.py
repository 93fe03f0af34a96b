"""Compare finished runs in tables and figures."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from experiments.reporting.figures import absent_figures, figures
from experiments.reporting.run_page import PAGE
from experiments.settings.arguments import quoted
from experiments.settings.configuration import command, plain
from tracegrad.errors import ConfigError
from tracegrad.plots.style import save
from tracegrad.reports.absent import TITLE, absent_lines, absent_tables
from tracegrad.reports.acceleration import with_acceleration
from tracegrad.reports.check import CheckOutcome, paper_outcomes, read_checks, require, run_checks
from tracegrad.reports.comma_separated import paired_csv, paper_csv, to_csv
from tracegrad.reports.comparison import results_table
from tracegrad.reports.grid import Grid, all_grids
from tracegrad.reports.inference import with_inference
from tracegrad.reports.latex import to_latex
from tracegrad.reports.manifest import SweepPlan, read_manifests, with_variants
from tracegrad.reports.markdown import to_markdown
from tracegrad.reports.paired import ArmPair, paired_differences
from tracegrad.reports.paper import ComparedTable, compare_with_paper
from tracegrad.reports.results import collect_results, read_run, unfinished_runs
from tracegrad.reports.structured import challenge_json, to_json
from tracegrad.reports.summary import summary_grid
from tracegrad.reports.table import ResultsTable
from tracegrad.reports.terminal import print_grids
from tracegrad.reports.web_page import page_figures, to_web_page
from tracegrad.system.text_files import write_text

CHECKS = Path(__file__).with_name("checks")
PAPER = "paper"
_AS_IT_IS: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}


@dataclass(frozen=True)
class Report:
    """Content of a report and the files that were written.

    Attributes:
        tables: a table for each set of comparable runs.
        pairs: differences between the arms of each table.
        compared: tables of the paper with its numbers and ours.
        grids: all tables as text.
        output: directory of the files.
        files: what was written.
        notes: which figures and runs are missing, and why.
        absent: which tables and figures of the paper are missing, and why.
    """

    tables: list[ResultsTable]
    pairs: list[list[ArmPair]]
    compared: list[ComparedTable]
    grids: list[Grid]
    output: Path
    files: list[Path]
    notes: list[str]
    absent: list[str]


def main() -> None:
    """Write the report, print its tables and files, and check its numbers if asked to.

    A directory may be given without ``runs=``, and ``--check`` means ``check=paper``.
    """
    sys.argv[1:] = _settings(sys.argv[1:])
    _report()


@command("report")
def _report(config: DictConfig) -> None:
    plain(config)
    output, baseline = (Path(path) if path is not None else None for path in (config.output, config.baseline))
    check = _check_file(config.check)
    report = make_report(Path(config.runs), output, baseline, config.worst)
    print_report(report)
    if config.check is None:
        return
    if check is None:
        outcomes = paper_outcomes(report.compared, config.tolerance)
    else:
        outcomes = run_checks(read_checks(check), report.tables)
    print_outcomes(outcomes)
    require(outcomes)


def make_report(
    runs: Path, output: Path | None = None, baseline: Path | None = None, worst: int = 1
) -> Report:
    """Write tables and figures of all runs below a directory.

    Args:
        runs: directory that is searched.
        output: directory of the files; None: ``runs``/report.
        baseline: run whose ``worst`` samples define MAE_cha, see `results_table`; None: chosen for each table.
        worst: number of these samples.

    Raises:
        TraceGradError: there are no results, they are damaged or cannot be compared, or the output cannot be written.
    """
    manifests = read_manifests(runs)
    results, notes = with_inference(with_acceleration(with_variants(collect_results(runs), manifests)))
    tables = results_table(results, read_run(baseline) if baseline else None, worst)
    tables, missing = _with_missing(tables, manifests)
    pairs = [paired_differences(table) for table in tables]
    compared, differing = compare_with_paper(tables)
    notes += missing + _unfinished(runs, manifests) + differing
    grids = all_grids(tables, pairs, compared)
    absent = absent_lines(absent_tables(tables, compared) + absent_figures(tables))
    output = runs / "report" if output is None else output
    texts = {
        "table.md": to_markdown(grids, absent),
        "table.tex": to_latex(grids, absent),
        "table.csv": to_csv(tables),
        "table.json": to_json(tables, runs, pairs, compared, absent),
    }
    if any(pairs):
        texts["paired.csv"] = paired_csv(tables, pairs)
    if compared:
        texts["paper.csv"] = paper_csv(compared)
    if any(table.challenge is not None for table in tables):
        texts["challenge.json"] = challenge_json(tables, runs)
    files = []
    for name, text in texts.items():
        write_text(output / name, text)
        files.append(output / name)
    for name, figure in figures(tables, pairs, notes).items():
        files.append(save(figure, output / f"{name}.png"))
    directories = sorted({run.directory for table in tables for row in table.arms for run in row.runs})
    page = to_web_page(
        f"Report on {runs.resolve().name}",
        grids,
        page_figures(files),
        directories,
        notes=notes,
        absent=absent,
    )
    write_text(output / PAGE, page)
    files.append(output / PAGE)
    return Report(tables, pairs, compared, grids, output, files, notes, absent)


def print_report(report: Report, console: Console | None = None) -> None:
    """Print the tables, what was left out, and the names of the files."""
    console = console or Console()
    print_grids(report.grids, console)
    console.print(f"{TITLE}:", *(f"  {line}" for line in report.absent), sep="\n", **_AS_IT_IS)
    console.print()
    _print_notes(report, console)
    names = ", ".join(str(path.relative_to(report.output)) for path in report.files)
    console.print(f"wrote {names} into {report.output}", **_AS_IT_IS)


def print_summary(report: Report, console: Console) -> None:
    """Print the error of each arm with its change against the baseline, and where everything else is."""
    grids = map(summary_grid, report.tables, report.pairs)
    print_grids([grid for grid in grids if grid is not None], console)
    _print_notes(report, console)
    figures = [path.name for path in report.files if path.suffix == ".png"]
    tables = [path.name for path in report.files if path.suffix != ".png"]
    for line in (
        f"report:  {report.output}",
        f"figures: {', '.join(figures)}",
        f"tables:  {', '.join(tables)}",
        f"all of them on the screen: tracegrad report {quoted(str(report.output.parent))}",
    ):
        console.print(line, **_AS_IT_IS)


def _print_notes(report: Report, console: Console) -> None:
    for note in report.notes:
        console.print(note, style="yellow", **_AS_IT_IS)


def print_outcomes(outcomes: Sequence[CheckOutcome], console: Console | None = None) -> None:
    """Print one line for each check."""
    console = console or Console()
    for outcome in outcomes:
        style = "green" if outcome.passed else "bold red"
        console.print(outcome.text, style=style, **_AS_IT_IS)


def _with_missing(
    tables: Sequence[ResultsTable], manifests: Sequence[SweepPlan]
) -> tuple[list[ResultsTable], list[str]]:
    """Tables with a footnote for each point of their sweep without a result, and notes on points of no table."""
    result, notes = list(tables), []
    for manifest in manifests:
        missing = [f"missing: {point.state}" for point in manifest.points if point.missing]
        swept = [
            i
            for i, table in enumerate(result)
            if any(run.directory.is_relative_to(manifest.directory) for row in table.arms for run in row.runs)
        ]
        for i in swept:
            result[i] = replace(result[i], footnotes=(*result[i].footnotes, *missing))
        if not swept:
            notes += [f"{manifest.directory}: {line}" for line in missing]
    return result, notes


def _unfinished(runs: Path, manifests: Sequence[SweepPlan]) -> list[str]:
    """Notes on runs outside of sweeps that have begun but have no results."""
    swept = {point.directory for manifest in manifests for point in manifest.points}
    return [
        f"{run}: no results yet (it runs, was interrupted, or has test=false); it is in no table"
        for run in unfinished_runs(runs)
        if run not in swept
    ]


def _settings(arguments: Sequence[str]) -> list[str]:
    """Arguments in Hydra's grammar: a directory becomes ``runs=``, ``--check`` with or without a file ``check=``."""
    settings: list[str] = []
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        if argument == "--check":
            file = waiting and waiting[0].endswith((".yaml", ".yml")) and "=" not in waiting[0]
            settings.append(f"check={quoted(waiting.pop(0)) if file else PAPER}")
        elif argument.startswith("--check="):
            settings.append(f"check={quoted(argument.partition('=')[2])}")
        elif argument.startswith("-") or ("=" in argument and not Path(argument).exists()):
            settings.append(argument)
        else:
            settings.append(f"runs={quoted(argument)}")
    return settings


def _check_file(name: str | None) -> Path | None:
    """Path of the file of tolerances, the user's or one that comes with TraceGrad; None for null and the paper."""
    if name is None or name == PAPER:
        return None
    path = Path(name) if Path(name).exists() else CHECKS / f"{name}.yaml"
    if not path.is_file():
        names = [PAPER, *sorted(file.stem for file in CHECKS.glob("*.yaml"))]
        raise ConfigError(f"check is {name!r}: no such file; give a path or one of {', '.join(names)}")
    return path


if __name__ == "__main__":
    main()
