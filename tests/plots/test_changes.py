import pytest

from tests.plots.test_plots import check_png, texts
from tracegrad.errors import TraceGradError
from tracegrad.plots.changes import ChangeRow, changes_figure
from tracegrad.plots.mean_curves import mean_curves_figure
from tracegrad.plots.style import ARM_COLOURS
from tracegrad.reports.relative import relative_change


def rows():
    shown = relative_change([0.8, 0.82, 0.79], [1.0, 1.0, 1.0])
    hidden = relative_change([0.8, 1.3, 1.0], [1.0, 1.0, 1.0])
    return [
        ChangeRow("graphene", "all", "tracegrad", shown),
        ChangeRow("graphene", "all", "grad", hidden),
        ChangeRow("water", "eps", "tracegrad", relative_change([0.5], [1.0])),
    ]


def test_changes_have_a_panel_for_each_database(tmp_path):
    figure = changes_figure(rows())
    assert {"graphene", "water", "all", "eps"} <= set(texts(figure))
    dots = {
        line.get_color(): line.get_markerfacecolor()
        for line in figure.axes[0].lines
        if line.get_marker() == "o" and len(line.get_xdata()) == 1
    }
    assert dots == {ARM_COLOURS["tracegrad"]: ARM_COLOURS["tracegrad"], ARM_COLOURS["grad"]: "white"}
    check_png(figure, tmp_path, (1000, 300))


def test_curves_are_means_over_the_seeds_of_the_steps_that_all_have(tmp_path):
    curves = {"water": {"none": [[(0, 8.0), (1, 2.0), (2, 1.0)], [(0, 2.0), (1, 8.0)]], "grad": []}}
    figure = mean_curves_figure(curves)
    (line,) = (line for line in figure.axes[0].lines if len(line.get_xdata()))
    assert list(line.get_xdata()) == [0, 1]
    assert list(line.get_ydata()) == pytest.approx([4.0, 4.0])
    assert line.get_label() == "none (2)"
    check_png(figure, tmp_path, (500, 400))


def test_nothing_to_draw_is_refused():
    with pytest.raises(TraceGradError, match="at least one comparison"):
        changes_figure([])
    with pytest.raises(TraceGradError, match="at least one curve"):
        mean_curves_figure({"water": {"none": []}})
