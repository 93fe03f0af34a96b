"""Reports as one web page: tables that sort, figures, settings and provenance in one file that needs no network."""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

import tracegrad
from tracegrad.reports.grid import MARK, SECTION, Grid

# Files of a run directory that the page quotes, with what they are.
QUOTED = {"config.yaml": "settings", "provenance.json": "provenance"}


@dataclass(frozen=True)
class PageFigure:
    """A figure on a page: its title and its PNG file as a data address."""

    title: str
    address: str


def page_figures(paths: Iterable[Path]) -> list[PageFigure]:
    """The PNG files among these, titled by their names."""
    return [
        PageFigure(
            path.stem.replace("_", " "),
            f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}",
        )
        for path in paths
        if path.suffix == ".png" and path.is_file()
    ]


def to_web_page(
    title: str,
    grids: Sequence[Grid],
    figures: Sequence[PageFigure],
    runs: Sequence[Path],
    *,
    notes: Sequence[str] = (),
    absent: Sequence[str] = (),
) -> str:
    """One HTML file with everything in it.

    Args:
        title: heading.
        grids: tables.
        figures: see `page_figures`.
        runs: run directories, whose `QUOTED` files stand on the page.
        notes: which runs and figures are missing.
        absent: which tables and figures of the paper are missing.
    """
    environment = Environment(
        loader=PackageLoader("tracegrad.reports", "."),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("web_page.html").render(
        title=title,
        version=tracegrad.__version__,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        grids=grids,
        section=SECTION,
        captions=[[caption.replace(MARK, "bold") for caption in grid.captions] for grid in grids],
        figures=figures,
        runs=[(run.name, _quoted(run)) for run in runs],
        notes=notes,
        absent=absent,
    )


def _quoted(run: Path) -> list[tuple[str, str]]:
    """What the quoted files of a run are called, and their texts."""
    return [
        (what, (run / name).read_text(encoding="utf-8", errors="replace"))
        for name, what in QUOTED.items()
        if (run / name).is_file()
    ]
