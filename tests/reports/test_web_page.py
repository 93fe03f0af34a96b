"""The page of a report: complete in itself, and looked at in a browser where there is one."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tracegrad.plots.style import make_figure, save
from tracegrad.reports.grid import FAINT, MARK, SECTION, Grid, GridCell, GridHead, GridLine
from tracegrad.reports.web_page import page_figures, to_web_page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
GRID = Grid(
    "demo <b>split</b>",
    "database & network",
    "method",
    (GridHead("MAE^H_all", unit="meV"), GridHead("seeds")),
    (
        GridLine("trivial predictor", (GridCell("1434.274"), GridCell("-")), FAINT),
        GridLine("QHNet", (GridCell("109.7 ± 2.0"), GridCell("3"))),
        GridLine("published", style=SECTION),
        GridLine("QHNet+TraceGrad", (GridCell("88.5 ± 1.0", "(-19.3 %)", best=True), GridCell("3"))),
        GridLine("another", (GridCell("9.5"), GridCell("3"))),
    ),
    (f"{MARK}: best",),
)


@pytest.fixture
def page(tmp_path: Path) -> str:
    run = tmp_path / "run_seed0"
    run.mkdir()
    (run / "config.yaml").write_text("name: '<script>alert(1)</script>'\n")
    figure = make_figure(2.0, 2.0)
    figure.subplots().plot([1, 2])
    path = save(figure, tmp_path / "learning_curves.png")
    return to_web_page(
        "Report", [GRID], page_figures([path, tmp_path / "table.csv"]), [run], notes=["one is missing"]
    )


def test_everything_is_in_the_file(page: str):
    assert "learning curves" in page
    assert page.count("data:image/png;base64,") == 1
    assert "&lt;script&gt;alert(1)" in page
    assert "demo &lt;b&gt;split&lt;/b&gt;" in page
    assert "<b>88.5 ± 1.0</b>" in page
    assert "bold: best" in page
    assert "one is missing" in page
    outside = re.findall(r"(?:src|href)=\"(?!#|data:)([^\"]*)\"|url\(|@import|https?://", page)
    assert outside == []


SCRIPT = """
<script>
const texts = () => [...document.querySelectorAll("tbody tr")].map(row => row.cells[0].textContent);
const before = texts();
const button = document.querySelectorAll("thead button")[1];
button.click();
const up = texts();
button.click();
const down = texts();
document.getElementById("theme").click();
const root = document.documentElement;
const ground = getComputedStyle(document.body).backgroundColor;
const seen = JSON.stringify({before, up, down, theme: root.dataset.theme, ground});
document.body.innerHTML = `<pre id="seen">${seen}</pre>`;
</script>
"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_columns_sort_and_the_theme_changes(page: str, tmp_path: Path):
    """Rows are sorted inside of their sections, by number, once up and once down."""
    assert BROWSER is not None
    (tmp_path / "page.html").write_text(page.replace("</body>", SCRIPT + "</body>"), encoding="utf-8")
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
         "--dump-dom", (tmp_path / "page.html").as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    seen = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout)
    assert seen is not None, done.stderr
    text = seen[1].replace("&quot;", '"')
    assert '"up":["QHNet","trivial predictor","published","another","QHNet+TraceGrad"]' in text
    assert '"down":["trivial predictor","QHNet","published","QHNet+TraceGrad","another"]' in text
    assert '"theme":"dark"' in text
    assert "rgb(20, 24, 30)" in text
