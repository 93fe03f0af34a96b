import numpy as np

from tracegrad.plots.energies import energies_figure
from tracegrad.units import MEV_PER_HARTREE


def test_core_and_valence_levels_are_apart_and_the_errors_are_stated():
    true = np.array([-19.1, -10.2, -1.0, -0.5, -0.3])
    predicted = true + np.array([1e-3, -3e-3, 2e-3, np.nan, 0.0])
    figure = energies_figure(true, predicted, "title")
    core, valence = figure.axes[:2]
    assert core.get_title() == "core levels (2)"
    assert valence.get_title() == "occupied valence levels (2, 1 not finite)"
    assert core.texts[0].get_text().startswith("MAE 54.4 meV\nmean error -27.2 meV")
    assert valence.texts[0].get_text().startswith("MAE 27.2 meV\nmean error 27.2 meV")
    errors = figure.axes[2].lines[1].get_ydata()
    np.testing.assert_allclose(errors, np.array([1e-3, -3e-3]) * MEV_PER_HARTREE)
    assert figure.get_suptitle() == "title"


def test_no_levels_and_many_levels():
    empty = energies_figure(np.empty(0), np.empty(0))
    assert [ax.get_title() for ax in empty.axes[:2]] == ["core levels (0)", "occupied valence levels (0)"]
    many = np.linspace(-1, -0.2, 50_000)
    assert len(energies_figure(many, many).axes[1].lines[1].get_xdata()) <= 20_000
