"""Tables and figures of finished runs: `python -m experiments.report --help`."""

import re
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from omegaconf import DictConfig
from rich.console import Console

from experiments.configuration import command, plain
from tracegrad.atomic import replacing
from tracegrad.comparison import ALL
from tracegrad.plots.ablation import ablation_figure
from tracegrad.plots.block_mae import block_mae_figure, mean_block_mae
from tracegrad.plots.learning_curves import Run, learning_curves, read_metrics
from tracegrad.plots.style import save
from tracegrad.report import (
    ResultsTable,
    RunResult,
    challenge_json,
    collect_results,
    print_tables,
    results_table,
    to_csv,
    to_json,
    to_markdown,
)
from tracegrad.results import BlockMAE, block_file, read_block_mae, read_run


@dataclass(frozen=True)
class Report:
    """What was found and written; ``notes`` says which figures were left out and why."""

    tables: list[ResultsTable]
    output: Path
    files: list[Path]
    notes: list[str]


@command("report")
def main(config: DictConfig) -> None:
    """Make the report, print its tables and where the files are."""
    plain(config)
    output, baseline = (Path(path) if path is not None else None for path in (config.output, config.baseline))
    print_report(make_report(Path(config.runs), output, baseline, config.worst))


def make_report(
    runs: Path, output: Path | None = None, baseline: Path | None = None, worst: int = 1
) -> Report:
    """Tables and figures of all runs below ``runs``, written into ``output`` (None: ``runs``/report).

    ``baseline`` is the run directory whose ``worst`` samples make MAE_cha, see `results_table`.

    Raises:
        TraceGradError: no results, results that are damaged or cannot be compared, or no place to write to.
    """
    tables = results_table(collect_results(runs), read_run(baseline) if baseline else None, worst)
    output = runs / "report" if output is None else output
    files: list[Path] = []
    notes: list[str] = []
    texts = {
        "table.md": to_markdown(tables),
        "table.csv": to_csv(tables),
        "table.json": to_json(tables, runs),
    }
    if any(table.challenge is not None for table in tables):
        texts["challenge.json"] = challenge_json(tables, runs)
    for name, text in texts.items():
        with replacing(output / name) as draft:
            draft.write_text(text, encoding="utf-8")
        files.append(output / name)
    for table, ending in zip(tables, _endings(tables), strict=True):
        for name, figure in _figures(table, notes).items():
            files.append(save(figure, output / f"{name}{ending}.png"))
    return Report(tables, output, files, notes)


def print_report(report: Report, console: Console | None = None) -> None:
    """The tables, what was left out, and the names of the files."""
    console = console or Console()
    print_tables(report.tables, console)
    for note in report.notes:
        console.print(note, style="yellow", markup=False, highlight=False, soft_wrap=True)
    names = ", ".join(str(path.relative_to(report.output)) for path in report.files)
    console.print(f"wrote {names} into {report.output}", markup=False, highlight=False, soft_wrap=True)


def _figures(table: ResultsTable, notes: list[str]) -> dict[str, Figure]:
    """Figures of a table by their names."""
    figures = {"ablation": _ablation(table, notes), "learning_curves": _learning_curves(table, notes)}
    for subset in table.subsets:
        figures[Path(block_file(subset)).stem] = _block_mae(table, subset, notes)
    return {name: figure for name, figure in figures.items() if figure is not None}


def _ablation(table: ResultsTable, notes: list[str]) -> Figure | None:
    metrics = {column.key: _mathtext(column.name) for column in table.columns if column.key.startswith(ALL)}
    if not metrics:
        notes.append(f"{table.title}: no MAE in the results, so no figure of the ablation")
        return None
    trivial = next((row for row in table.rows if row not in table.arms), None)
    return ablation_figure(
        {row.arm: {key: cell.values for key, cell in row.cells.items()} for row in table.arms},
        {row.arm: row.label for row in table.arms},
        metrics,
        {key: cell.mean for key, cell in trivial.cells.items()} if trivial else None,
        table.title,
    )


def _mathtext(name: str) -> str:
    """The name of a column, such as MAE^H_cha_s (nt), as matplotlib sets it."""
    head, _, tail = name.partition("^H_")
    index, _, superscript = tail.partition(" ")
    return f"{head}$^{{H}}_{{{index.replace('_', chr(92) + '_')}}}$ {superscript}".rstrip()


def _learning_curves(table: ResultsTable, notes: list[str]) -> Figure | None:
    curves = [
        Run(read_metrics(path), run.arm, run.label, run.seed)
        for _, run, path in _with_file(table, "metrics.csv", notes)
    ]
    title = table.title
    if len(curves) == 1:
        title = f"{title}: {curves[0].label}, seed {curves[0].seed}"
    return learning_curves(curves, title) if curves else None


def _block_mae(table: ResultsTable, subset: str, notes: list[str]) -> Figure | None:
    by_label: dict[str, list[BlockMAE]] = {}
    for label, _, path in _with_file(table, block_file(subset), notes):
        by_label.setdefault(label, []).append(read_block_mae(path))
    means = {label: mean_block_mae(found) for label, found in by_label.items()}
    return block_mae_figure(means, table.title + table.superscript(subset)) if means else None


def _with_file(table: ResultsTable, name: str, notes: list[str]) -> list[tuple[str, RunResult, Path]]:
    """Runs of a table that have a file of this name; the others are noted."""
    found = []
    for row in table.arms:
        for run in row.runs:
            path = run.directory / name
            if path.is_file():
                found.append((row.label, run, path))
            else:
                notes.append(f"{path} is missing: {row.label}, seed {run.seed} is not in that figure")
    return found


def _endings(tables: list[ResultsTable]) -> list[str]:
    """What goes behind the names of the figures of each table: nothing if there is only one."""
    if len(tables) == 1:
        return [""]
    names = [re.sub(r"[^A-Za-z0-9]+", "_", f"{table.database_label} {table.split}") for table in tables]
    endings = []
    for i, name in enumerate(names):
        number = names[: i + 1].count(name)
        endings.append(f"-{name}" if names.count(name) == 1 else f"-{name}-{number}")
    return endings


if __name__ == "__main__":
    main()
