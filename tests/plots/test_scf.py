import numpy as np
import pytest

from tests.physics.molecules.scf_work import made_up_run
from tracegrad.errors import TraceGradError
from tracegrad.physics.molecules.acceleration_results import Acceleration
from tracegrad.plots.scf import FLOOR, scf_figure
from tracegrad.plots.style import save
from tracegrad.units import MEV_PER_HARTREE


def acceleration(scale: float, cycles: int) -> Acceleration:
    runs = [
        made_up_run(k, errors=scale * 0.1 ** np.arange(k + 1.0)) for k in (cycles, cycles + 2, cycles + 4)
    ]
    return Acceleration(
        0, "0", "H2", np.array([1, 1]), scale, 0.0, runs[0], {"minao": runs[1], "1e": runs[2]}
    )


def test_lines_are_medians_of_runs_that_stay_where_they_ended(tmp_path):
    results = [acceleration(1.0, 2), acceleration(2.0, 3), acceleration(3.0, 1)]
    figure = scf_figure(results)
    fock, energy = figure.axes
    labels = [line.get_label() for line in fock.lines]
    assert labels == [
        "predicted H (2.0 cycles)",
        "minao (4.0 cycles)",
        "1e (6.0 cycles)",
        "MAE of the predicted H",
    ]
    # Cycle 3: 1e-2 of the first, 2e-3 of the second, 3e-1 of the third, which ended after its cycle 1.
    np.testing.assert_allclose(fock.lines[0].get_ydata(), np.array([2, 0.2, 0.02, 0.01]) * MEV_PER_HARTREE)
    np.testing.assert_array_equal(fock.lines[0].get_xdata(), [0, 1, 2, 3])
    assert len(fock.lines[2].get_xdata()) == 8
    np.testing.assert_allclose(fock.lines[3].get_ydata(), 2 * MEV_PER_HARTREE)
    np.testing.assert_allclose(energy.lines[1].get_ydata()[:3], np.array([1, 0.1, 0.01]) * MEV_PER_HARTREE)
    assert min(energy.lines[2].get_ydata()) >= FLOOR
    assert fock.get_yscale() == energy.get_yscale() == "log"
    assert save(figure, tmp_path / "scf.png").stat().st_size > 10_000


def test_without_molecules_there_is_no_figure():
    with pytest.raises(TraceGradError, match="at least one molecule"):
        scf_figure([])
