import io

import pytest
from rich.console import Console

from tracegrad.system import progress
from tracegrad.system.progress import BYTES, ProgressDisplay, readable_size


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1_000, "1.0 kB"),
        (26.93e9, "26.9 GB"),
        (2.5e6, "2.5 MB"),
        (3e12, "3,000.0 GB"),
    ],
)
def test_sizes_in_decimal_units(size, text):
    assert readable_size(size) == text


def test_lines_now_and_then_where_there_is_no_terminal(monkeypatch):
    stream = io.StringIO()
    clock = iter([0.0, 10.0, 31.0, 31.0, 40.0, 70.0, 70.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    shown = ProgressDisplay(BYTES, console=Console(file=stream, soft_wrap=True))
    on_progress = shown.bar("a.zip")
    for done, total in ((1_000, 5_000), (2_000, 5_000), (3_000, 5_000), (4_000, None)):
        on_progress(done, total)
    assert stream.getvalue().splitlines() == ["a.zip: 2.0 kB of 5.0 kB", "a.zip: 4.0 kB"]


def test_a_bar_on_a_terminal():
    stream = io.StringIO()
    with ProgressDisplay(BYTES, console=Console(file=stream, force_terminal=True, width=100)) as shown:
        shown.bar("a.zip")(500, 1_000)
        shown.bar("b.zip")(750, 1_000)
        shown._bars.refresh()
    assert "b.zip" in stream.getvalue()
    assert "0.8/1.0 kB" in stream.getvalue()
