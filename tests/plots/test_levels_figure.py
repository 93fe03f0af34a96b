"""The lines and labels in a figure of levels, and their positions."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from tracegrad.errors import TraceGradError
from tracegrad.physics.dos.density import DensityOfStates
from tracegrad.physics.molecules.levels import MolecularLevels
from tracegrad.plots.levels import levels_figure
from tracegrad.units import MEV

EV = MEV["hartree"] / MEV["eV"]


def ladder(energies: list[float], occupied: int) -> MolecularLevels:
    """Levels at energies in eV."""
    return MolecularLevels(np.array(energies) / EV, np.eye(len(energies)), occupied)


def lines(figure: Figure) -> list[tuple[float, float, float]]:
    """(left end, right end, energy) of the line of every level."""
    segments = [s for collection in figure.axes[0].collections for s in collection.get_segments()]
    return [(s[0][0], s[1][0], s[0][1]) for s in segments]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts if text.get_text()]


def test_degenerate_levels_stand_side_by_side() -> None:
    found = lines(levels_figure({"predicted": ladder([-500, -20, -10.01, -10, 2, 5], 4)}))
    pair = sorted(line for line in found if line[2] < -9 and line[2] > -11)
    assert len(pair) == 2
    assert pair[0][1] < pair[1][0]
    alone = [
        right - left for left, right, energy in found if energy in (pytest.approx(-20), pytest.approx(2))
    ]
    assert alone == pytest.approx([0.6, 0.6])
    assert pair[1][1] - pair[0][0] == pytest.approx(0.6)


def test_the_window_and_what_lies_outside() -> None:
    figure = levels_figure({"a": ladder([-500, -20, -8, 2, 30], 3), "b": ladder([-502, -501, -6, 1, 3], 3)})
    assert {round(energy) for _, _, energy in lines(figure)} == {-20, -8, 2, -6, 1, 3}
    assert set(texts(figure)) == {
        *("1 below", "2 below", "HOMO -8.00", "LUMO 2.00", "gap 10.00"),
        *("HOMO -6.00", "LUMO 1.00", "gap 7.00"),
    }
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["a", "b"]
    narrow = levels_figure({"a": ladder([-500, -20, -8, 2, 30], 3)}, window=(-10.0, 3.0))
    assert sorted(round(energy) for _, _, energy in lines(narrow)) == [-8, 2]


def test_levels_that_no_molecule_has_are_drawn_too() -> None:
    figure = levels_figure({"predicted": ladder([-900, -60, -50], 2), "DFT": ladder([-500, -8, 2], 2)})
    assert {round(energy) for _, _, energy in lines(figure)} == {-60, -50, -8, 2}


def test_densities_beside_the_levels() -> None:
    """They share the axis of the energies; the total of DFT is black, that of the prediction dashed."""
    energies = np.linspace(-20.0, 5.0, 51)
    own, predicted = (
        DensityOfStates(
            energies,
            np.exp(-((energies - zero) ** 2)),
            energies,
            ("H s", "H p"),
            np.ones((2, 51)),
            None,
            0.1,
            "",
        )
        for zero in (-8.0, -7.5)
    )
    ladders = {name: ladder([-500, -20, -8, 2], 3) for name in ("predicted", "DFT")}
    figure = levels_figure(ladders, densities=[own, predicted])
    left, right = figure.axes
    assert left.get_ylim() == right.get_ylim()
    labels = [text.get_text() for text in right.get_legend().get_texts()]
    assert labels == ["H s", "H p", "DFT, total", "predicted, total"]
    lines = {line.get_label(): line for line in right.lines}
    assert np.array_equal(lines["DFT, total"].get_xdata(), own.total)
    assert np.array_equal(lines["predicted, total"].get_xdata(), predicted.total)
    assert np.array_equal(lines["H s"].get_ydata(), energies)
    assert lines["DFT, total"].get_linestyle() == "-" != lines["predicted, total"].get_linestyle()
    alone = levels_figure({"predicted": ladders["DFT"]}, densities=[own])
    assert [text.get_text() for text in alone.axes[1].get_legend().get_texts()] == ["H s", "H p", "total"]


def test_a_narrow_gap_is_written_beside_the_levels() -> None:
    assert "HOMO -8.00\ngap 0.50" in texts(levels_figure({"a": ladder([-20, -8, -7.5], 2)}))


def test_nothing_to_draw() -> None:
    with pytest.raises(TraceGradError, match="no levels"):
        levels_figure({})
    with pytest.raises(TraceGradError, match=r"window is \[3\.0, 3\.0\]"):
        levels_figure({"a": ladder([-8, 2], 1)}, window=(3.0, 3.0))
