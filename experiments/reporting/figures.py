"""Figures of a report."""

import re
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from tracegrad.backbones.known import known_backbones
from tracegrad.plots.ablation import ablation_figure
from tracegrad.plots.block_change import BlockChange, block_change_figure
from tracegrad.plots.block_mae import block_mae_figure, mean_block_mae
from tracegrad.plots.differences import differences_figure
from tracegrad.plots.equivariance import equivariance_figure
from tracegrad.plots.learning_curves import RunCurves, learning_curves
from tracegrad.reports.absent import NO_PAPER_DATA, Absence, joined
from tracegrad.reports.arms import BASELINE
from tracegrad.reports.columns import ALL, MARKS
from tracegrad.reports.metrics_file import read_metrics
from tracegrad.reports.paired import ArmPair
from tracegrad.reports.paper import by_database, paper_database
from tracegrad.reports.results import BlockMAE, RunResult, block_file, read_block_mae
from tracegrad.reports.table import ResultsTable, Row

TRACEGRAD = "tracegrad"
# Databases of Figs. 5 and 6 of the paper, which are of this backbone; Fig. 7 shows MM with other backbones.
FIGURES = {"figure5": ("MG", "MM"), "figure6": ("BG", "BB", "BT", "BS")}
USUAL_BACKBONE = "DeepH-E3"
EQUIVARIANCE = re.compile(r"test/equivariance_(h1_)?(\d+)(?:/\w+)?")


def figures(
    tables: Sequence[ResultsTable], pairs: Sequence[Sequence[ArmPair]], notes: list[str]
) -> dict[str, Figure]:
    """All figures of a report, by the names of their files without ending.

    Args:
        notes: the function appends which figures and runs are left out, and why.
    """
    result: dict[str, Figure] = {}
    changes = {}
    for i, (table, ending) in enumerate(zip(tables, _endings(tables), strict=True)):
        drawn = {"ablation": _ablation(table, notes), "learning_curves": _learning_curves(table, notes)}
        if pairs[i]:
            drawn["differences"] = differences_figure(pairs[i], table.title)
        for subset in table.subsets:
            blocks = _blocks(table, subset, notes)
            name = Path(block_file(subset)).stem
            drawn[name] = _block_mae(table, subset, blocks)
            change = _change(table, subset, blocks)
            if change is not None:
                changes[i, subset] = change
                drawn[name.replace("block_mae", "block_change")] = block_change_figure([change])
        result |= {f"{name}{ending}": figure for name, figure in drawn.items() if figure is not None}
    return result | _equivariance(tables) | _figures_of_the_paper(tables, changes)


def absent_figures(tables: Sequence[ResultsTable]) -> list[Absence]:
    """Figures of the paper that the report lacks, completely or in part, and why."""
    drawable = {
        (paper_database(table)[0], table.backbone)
        for table in tables
        if {BASELINE, TRACEGRAD}
        <= {
            row.arm
            for row in table.arms
            if any((run.directory / block_file("")).is_file() for run in row.runs)
        }
    }
    any_data = bool(by_database(tables))
    absent = []
    for name, databases in FIGURES.items():
        missing = [database for database in databases if (database, USUAL_BACKBONE) not in drawable]
        if missing:
            needed = f"runs of {USUAL_BACKBONE} and {USUAL_BACKBONE}+TraceGrad with block_mae.csv"
            reason = f"no {needed} on {joined(missing, 'or')}" if any_data else NO_PAPER_DATA
            absent.append(Absence("Fig.", name.removeprefix("figure"), reason))
    others = {backbone.label for backbone in known_backbones() if backbone.periodic}
    others |= {table.backbone for table in tables if table.crystal}
    others -= {USUAL_BACKBONE}
    if not others:
        absent.append(
            Absence(
                "Fig.",
                "7",
                f"shows a backbone of crystals other than {USUAL_BACKBONE}; none is implemented",
            )
        )
    elif not any(backbone in others and database for database, backbone in drawable):
        names = joined(sorted(others), "or")
        reason = (
            f"no runs of {names}, with and without TraceGrad, with block_mae.csv on a database of the paper"
        )
        absent.append(Absence("Fig.", "7", reason))
    return [*absent, Absence("Fig.", "1", "is a sketch of the method, which no command draws")]


def _figures_of_the_paper(
    tables: Sequence[ResultsTable], changes: dict[tuple[int, str], BlockChange]
) -> dict[str, Figure]:
    """Figs. 5 to 7 of the paper, with those databases for which there are runs."""
    panels: dict[str, list[tuple[tuple[int, int, str], BlockChange]]] = {}
    for (i, subset), change in changes.items():
        table = tables[i]
        database, _ = paper_database(table)
        for name, databases in FIGURES.items():
            if database not in databases:
                continue
            if table.backbone != USUAL_BACKBONE:
                name = "figure7"
            order = (databases.index(database), list(MARKS).index(subset) if subset in MARKS else 9, subset)
            panels.setdefault(name, []).append((order, change))
    return {
        name: block_change_figure([change for _, change in sorted(panel, key=lambda entry: entry[0])])
        for name, panel in sorted(panels.items())
    }


def _equivariance(tables: Sequence[ResultsTable]) -> dict[str, Figure]:
    """Equivariance errors of the networks on each database, side by side."""
    by_label: dict[str, dict[str, dict[int, float]]] = {}
    for table in tables:
        for row in table.arms:
            for key, cell in row.cells.items():
                if match := EQUIVARIANCE.fullmatch(key):
                    first, angle = match.groups()
                    label = f"{row.label}, H1" if first else row.label
                    curves = by_label.setdefault(table.database_label, {})
                    curves.setdefault(label, {})[int(angle)] = cell.mean
    result = {}
    for database, curves in by_label.items():
        ending = "" if len(by_label) == 1 else "-" + re.sub(r"[^A-Za-z0-9]+", "_", database)
        result[f"equivariance{ending}"] = equivariance_figure(curves, database)
    return result


def _ablation(table: ResultsTable, notes: list[str]) -> Figure | None:
    metrics = {c.key: c.math or c.name for c in table.columns if c.key.startswith(ALL)}
    metrics = {key: name for key, name in metrics.items() if "shifted" not in key}
    if not metrics:
        notes.append(f"{table.title}: no MAE in the results, so no figure of the ablation")
        return None
    trivial = next((row for row in table.rows if row not in table.arms), None)
    return ablation_figure(
        {row.name: {key: cell.values for key, cell in row.cells.items()} for row in table.arms},
        {row.name: row.label for row in table.arms},
        metrics,
        {key: cell.mean for key, cell in trivial.cells.items()} if trivial else None,
        table.title,
    )


def _learning_curves(table: ResultsTable, notes: list[str]) -> Figure | None:
    curves = [
        RunCurves(read_metrics(path), row.name, row.label, run.seed)
        for row, run, path in _with_file(table, "metrics.csv", notes)
    ]
    title = table.title
    if len(curves) == 1:
        title = f"{title}: {curves[0].label}, seed {curves[0].seed}"
    return learning_curves(curves, title) if curves else None


def _blocks(table: ResultsTable, subset: str, notes: list[str]) -> dict[str, tuple[Row, BlockMAE]]:
    """Errors of the basic blocks for each row of a table, averaged over seeds."""
    by_row: dict[str, tuple[Row, list[BlockMAE]]] = {}
    for row, _, path in _with_file(table, block_file(subset), notes):
        by_row.setdefault(row.name, (row, []))[1].append(read_block_mae(path))
    return {name: (row, mean_block_mae(errors)) for name, (row, errors) in by_row.items()}


def _block_mae(table: ResultsTable, subset: str, blocks: dict[str, tuple[Row, BlockMAE]]) -> Figure | None:
    means = {row.label: mean for row, mean in blocks.values()}
    return block_mae_figure(means, table.title + table.superscript(subset)) if means else None


def _change(table: ResultsTable, subset: str, blocks: dict[str, tuple[Row, BlockMAE]]) -> BlockChange | None:
    if not {BASELINE, TRACEGRAD} <= blocks.keys():
        return None
    (plain, before), (full, after) = blocks[BASELINE], blocks[TRACEGRAD]
    title = f"{table.database_label}{table.superscript(subset)}"
    return BlockChange(title, plain.label, before, full.label, after)


def _with_file(table: ResultsTable, name: str, notes: list[str]) -> list[tuple[Row, RunResult, Path]]:
    """Runs of a table that have a file of this name; a note says which do not."""
    runs = []
    for row in table.arms:
        for run in row.runs:
            path = run.directory / name
            if path.is_file():
                runs.append((row, run, path))
            else:
                notes.append(f"{path} is missing: {row.label}, {run.repetition_name} is not in the figure")
    return runs


def _endings(tables: Sequence[ResultsTable]) -> list[str]:
    """Endings of the names of figures, one for each table; empty if there is only one table."""
    if len(tables) == 1:
        return [""]
    names = [re.sub(r"[^A-Za-z0-9]+", "_", f"{table.database_label} {table.split}") for table in tables]
    endings = []
    for i, name in enumerate(names):
        number = names[: i + 1].count(name)
        endings.append(f"-{name}" if names.count(name) == 1 else f"-{name}-{number}")
    return endings
