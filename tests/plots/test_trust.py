import dataclasses

import numpy as np
import pytest

from tests.physics.molecules.scf_work import made_up_run
from tracegrad.errors import TraceGradError
from tracegrad.physics.molecules.acceleration_results import Acceleration
from tracegrad.plots.trust import trust_figure
from tracegrad.units import MEV_PER_HARTREE


def acceleration(scale: float) -> Acceleration:
    run = made_up_run(
        direct_energies=np.array([-1 + scale, -1.0]),
        residuals=np.array([scale, 3 * scale]),
        forces=np.zeros((2, 2, 3)),
    )
    numbers = np.array([1, 1])
    return Acceleration(0, "0", "H2", numbers, 2 * scale, 0.0, run, {"minao": made_up_run()}, 0.5 / scale)


def test_measures_against_errors():
    """The spread has a column of its own, and falls here where the errors grow."""
    results = [acceleration(scale) for scale in (0.01, 0.02, 0.04)]
    figure = trust_figure(results)
    assert len(figure.axes) == 6
    assert [ax.get_title() for ax in figure.axes] == [
        *(["rank correlation 1.00", "rank correlation 1.00", "rank correlation -1.00"] * 2)
    ]
    of_h, of_energy = figure.axes[2].lines[0], figure.axes[5].lines[0]
    np.testing.assert_allclose(of_h.get_xdata(), np.array([50, 25, 12.5]) * MEV_PER_HARTREE)
    np.testing.assert_allclose(of_h.get_ydata(), np.array([0.02, 0.04, 0.08]) * MEV_PER_HARTREE)
    np.testing.assert_allclose(of_energy.get_ydata(), np.array([0.01, 0.02, 0.04]) * MEV_PER_HARTREE)
    assert "spread" in figure.axes[5].get_xlabel()


def test_a_single_network_has_two_columns():
    single = [dataclasses.replace(acceleration(scale), spread=None) for scale in (0.01, 0.02)]
    assert len(trust_figure(single).axes) == 4


def test_without_measures_there_is_no_figure():
    with pytest.raises(TraceGradError, match="at least one molecule"):
        trust_figure([])
