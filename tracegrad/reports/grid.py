"""Tables as rows of texts: the common form from which terminal, Markdown and LaTeX tables are written."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tracegrad.metrics.columns import PANELS, Column
from tracegrad.reports.arms import BASELINE
from tracegrad.reports.columns import TIME
from tracegrad.reports.inference import cost, protocol_lines
from tracegrad.reports.paired import METHOD, ArmPair, Difference
from tracegrad.reports.paper import ComparedTable, block_cost
from tracegrad.reports.table import TRIVIAL, Cell, ResultsTable, Row, with_best

PLAIN, FAINT, SECTION = "plain", "faint", "section"


@dataclass(frozen=True)
class GridHead:
    """The head of a column: its name as text, the name as LaTeX mathematics ("": the same as the text), its unit."""

    name: str
    math: str = ""
    unit: str = ""


@dataclass(frozen=True)
class GridCell:
    """A cell: a value, an addition that is printed in brackets or below it, and whether the value is the best."""

    value: str = ""
    extra: str = ""
    best: bool = False


@dataclass(frozen=True)
class GridLine:
    """A row of a grid. In the style `SECTION` it is a heading without cells."""

    label: str
    cells: tuple[GridCell, ...] = ()
    style: str = PLAIN


@dataclass(frozen=True)
class Grid:
    """A table of texts, ready to be printed.

    Attributes:
        title, subtitle: heading.
        first: head of the column of labels.
        heads: heads of the other columns.
        lines: the rows.
        captions: notes below; `MARK` in them is replaced by the way in which the writer marks the best value.
        printed: False for a table that is too wide for a terminal and only stands in files.
    """

    title: str
    subtitle: str
    first: str
    heads: tuple[GridHead, ...]
    lines: tuple[GridLine, ...]
    captions: tuple[str, ...]
    printed: bool = True


MARK = "{best}"


def table_grids(table: ResultsTable) -> list[Grid]:
    """A grid of the accuracies with seeds, steps and training times, and one for each further panel with values."""
    grids = []
    for panel in dict.fromkeys(["accuracy", *(column.panel for column in table.columns)]):
        columns = [column for column in table.columns if column.panel == panel]
        if not columns:
            continue
        name = PANELS.get(panel, panel)
        title = f"{table.title}: {name}" if name else table.title
        subtitle = f"{table.database}, {table.backbone}, {table.experiment}"
        heads = [_head(column) for column in columns]
        rows = [row for row in table.rows if row.arm != TRIVIAL or any(c.key in row.cells for c in columns)]
        lines = [
            GridLine(r.label, _cells(r.cells, columns), FAINT if r.arm == TRIVIAL else PLAIN) for r in rows
        ]
        if name:
            captions = _panel_captions(columns, table.arms)
        else:
            heads += [GridHead("seeds"), GridHead("steps"), GridHead("time", unit="s")]
            lines = [
                replace(line, cells=line.cells + _run_cells(row))
                for line, row in zip(lines, rows, strict=True)
            ]
            captions = _captions(table, columns)
        grids.append(Grid(title, subtitle, "method", tuple(heads), tuple(lines), tuple(captions)))
    return grids


def paper_grid(table: ComparedTable) -> Grid:
    """A table of the paper: our row of each method, and below it the row of the paper."""
    lines = []
    for section in table.sections:
        lines.append(GridLine(section.title, style=SECTION))
        ours, theirs = (
            with_best([row.cells for row in rows if row is not None], table.columns)
            for rows in ([line.ours for line in section.lines], [line.paper for line in section.lines])
        )
        for line in section.lines:
            if line.ours is not None:
                lines.append(GridLine(line.ours.label, _cells(ours.pop(0), table.columns)))
            if line.paper is not None:
                label = "  paper" if line.ours is not None else f"{line.method} (paper; not run)"
                lines.append(GridLine(label, _cells(theirs.pop(0), table.columns), FAINT))
    title = f"{table.paper.name}: {table.paper.caption}"
    heads = tuple(_head(column) for column in table.columns)
    numbers = f"{MARK}: best of ours, and of the paper's"
    if not all(column.over_samples for column in table.columns):
        numbers = f"ours: mean ± sample standard deviation over seeds; {numbers}"
    notes = (numbers, *table.notes)
    return Grid(title, "ours and the paper's", "method", heads, tuple(lines), notes)


def paired_grid(table: ResultsTable, pairs: Sequence[ArmPair]) -> Grid | None:
    """The differences between the arms of a table, one line for each metric; None if there are no differences."""
    columns = [column for column in table.columns if any(column.key in pair.differences for pair in pairs)]
    if not columns:
        return None
    # One metric in each line, because the intervals of many metrics side by side would be too wide for a screen.
    lines = [
        GridLine(_named(column), tuple(difference_cell(pair.differences.get(column.key)) for pair in pairs))
        for column in columns
    ]
    sizes = {(d.seeds, d.samples) for pair in pairs for d in pair.differences.values() if d.samples > 1}
    counts = [f"{seeds} seeds and {samples} samples" for seeds, samples in sorted(sizes)]
    captions = [*METHOD, *([f"over {', '.join(counts)}"] if counts else [])]
    subtitle = f"{table.database}, {table.backbone}, {table.experiment}"
    heads = tuple(GridHead(pair.label) for pair in pairs)
    title = f"{table.title}: differences between arms"
    return Grid(title, subtitle, "metric", heads, tuple(lines), tuple(captions), printed=False)


def all_grids(
    tables: Sequence[ResultsTable], pairs: Sequence[Sequence[ArmPair]], compared: Sequence[ComparedTable]
) -> list[Grid]:
    """The grids of each table and of the differences between its arms, then those of the paper's tables."""
    grids = []
    for table, table_pairs in zip(tables, pairs, strict=True):
        grids += table_grids(table)
        differences = paired_grid(table, table_pairs)
        grids += [differences] if differences else []
    return grids + [paper_grid(table) for table in compared]


def _head(column: Column) -> GridHead:
    return GridHead(column.name, column.math, column.unit)


def _named(column: Column) -> str:
    return f"{column.name} ({column.unit})" if column.unit else column.name


def _cells(cells: dict[str, Cell], columns: Sequence[Column]) -> tuple[GridCell, ...]:
    return tuple(metric_cell(cells.get(column.key), column) for column in columns)


def metric_cell(cell: Cell | None, column: Column) -> GridCell:
    """Mean ± standard deviation of a metric, with its change against the baseline."""
    if cell is None:
        return GridCell("-")
    value = f"{cell.mean:.{column.digits}f}"
    if cell.std is not None and column.lower_is_better is not None:
        value += f" ± {cell.std:.{column.digits}f}"
    extra = f"({cell.change:+.1f} %)" if cell.change is not None else ""
    return GridCell(value, extra, cell.best)


def _run_cells(row: Row) -> tuple[GridCell, ...]:
    seconds = f"{row.seconds:.1f}" if row.seconds is not None else ""
    return tuple(GridCell(value) for value in (_seeds(row.seeds), _range(row.steps), seconds))


def difference_cell(difference: Difference | None) -> GridCell:
    """Difference and its confidence interval, with what they show."""
    if difference is None:
        return GridCell("-")
    digits, interval = difference.column.digits, difference.interval
    value = f"{interval.mean:+.{digits}f}"
    if interval.low is not None and interval.high is not None:
        value += f" [{interval.low:+.{digits}f}, {interval.high:+.{digits}f}]"
    over = "" if difference.over == "seeds and samples" else f" ({difference.over})"
    return GridCell(value, difference.finding + over)


def _panel_captions(columns: Sequence[Column], rows: Sequence[Row]) -> list[str]:
    if any(column.over_samples for column in columns):
        return ["mean ± standard deviation over molecules, each averaged over seeds"]
    if not any(column.key == TIME for column in columns):
        return []
    lines = protocol_lines(rows)
    slowdown = cost(rows)
    if slowdown is not None:
        plain, full, change = slowdown
        low, high = block_cost()
        lines.append(
            f"time of {full.label} against {plain.label}: {change:+.1f} % here, {low:+.1f} to {high:+.1f} % in the "
            "paper (Appendix I: Nvidia RTX A6000)"
        )
    return lines


def data_line(table: ResultsTable) -> str:
    """What was tested on which data."""
    counts = ", ".join(f"{count} {part}" for part, count in table.counts.items())
    return f"{table.part} set, {table.checkpoint} checkpoint; {table.samples}: {counts}; split {table.split_hash}"


def _captions(table: ResultsTable, columns: Sequence[Column]) -> list[str]:
    data = data_line(table)
    if sum(len(row.runs) for row in table.arms) == 1:
        return [data, *table.footnotes]  # the other captions explain how to compare runs
    spread = any(cell.std is not None for row in table.rows for cell in row.cells.values())
    numbers = ["mean ± sample standard deviation over seeds" if spread else "value of the seed"]
    baseline = next((row.label for row in table.arms if row.arm == BASELINE), None)
    if baseline is not None and len(table.arms) > 1:
        numbers.append(f"(change against {baseline})")
    if any(cell.best for row in table.rows for cell in row.cells.values()):
        numbers.append(f"{MARK}: best")
    lines = [data, "; ".join(numbers)]
    higher = [column.name for column in columns if column.lower_is_better is False]
    if higher:
        lines.append(f"MAE: lower is better; {', '.join(higher)}: higher is better")
    return [*lines, *table.footnotes, *table.notes]


def _seeds(seeds: tuple[int, ...]) -> str:
    """The text of the seeds of a row, such as "0, 1, 2" or "42 (10 times)"."""
    texts = []
    for seed in dict.fromkeys(seeds):
        times = seeds.count(seed)
        texts.append(f"{seed}" + (f" ({times} times)" if times > 1 else ""))
    return ", ".join(texts)


def _range(values: tuple[int, ...]) -> str:
    if not values:
        return ""
    low, high = min(values), max(values)
    return f"{low}" if low == high else f"{low}-{high}"
