"""The web page of one run, beside its results."""

from collections.abc import Sequence
from pathlib import Path

from tracegrad.reports.grid import table_grids
from tracegrad.reports.table import ResultsTable
from tracegrad.reports.web_page import page_figures, to_web_page
from tracegrad.system.text_files import write_text

PAGE = "report.html"


def write_run_page(directory: Path, tables: Sequence[ResultsTable]) -> Path:
    """Write tables, figures, settings and provenance of a run as one page, and return its path.

    Args:
        directory: of the run.
        tables: of its results.
    """
    grids = [grid for table in tables for grid in table_grids(table)]
    figures = page_figures(sorted((directory / "figures").glob("*.png")))
    page = directory / PAGE
    write_text(page, to_web_page(directory.resolve().name, grids, figures, [directory]))
    return page
