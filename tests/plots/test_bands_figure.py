from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from tracegrad.errors import TraceGradError
from tracegrad.physics.bands.bands import BandStructure
from tracegrad.physics.bands.kpath import k_path
from tracegrad.physics.dos.density import DensityOfStates
from tracegrad.plots.bands import bands_figure
from tracegrad.plots.style import OTHER_COLOUR, SERIES_COLOURS, save

LATTICE = np.diag([3.0, 5.0, 15.0])


def cosines(path="GX,YS", points=40) -> BandStructure:
    """Three bands; the third lies above the usual window."""
    k = k_path(LATTICE, np.array([True, True, False]), path=path, npoints=points)
    cosine = np.cos(2 * np.pi * k.points[:, 0])
    energies = np.stack([-1.5 - 0.4 * cosine, 0.9 + 0.3 * cosine, 7.0 + cosine], axis=1) + 4.0
    return BandStructure("cosines", k, energies, 0, 3, 4.0, 1.0)


def drawn(figure, colour):
    (ax,) = figure.axes
    return [line for line in ax.lines if to_hex(line.get_color()) == colour and len(line.get_xdata()) > 2]


def test_one_band_structure(tmp_path):
    bands = cosines()
    figure = bands_figure(bands, title="cosines")
    (ax,) = figure.axes
    assert ax.get_title(loc="left") == "cosines"
    assert [label.get_text() for label in ax.get_xticklabels()] == [
        r"$\Gamma$",
        r"$\mathrm{X}$|$\mathrm{Y}$",
        r"$\mathrm{S}$",
    ]
    assert list(ax.get_xticks()) == [distance for distance, _ in bands.path.ticks]
    assert ax.get_ylim() == (-2, 2)
    assert ax.get_xlim() == (0, bands.path.distances[-1])
    assert not figure.legends
    lines = drawn(figure, OTHER_COLOUR)
    assert len(lines) == 4  # two bands on both sides of the jump
    jump = bands.path.ticks[1][0]
    assert all(line.get_xdata()[-1] <= jump or line.get_xdata()[0] >= jump for line in lines)
    values = np.concatenate([line.get_ydata() for line in lines])
    assert values.min() == pytest.approx(-1.9)
    assert values.max() == pytest.approx(1.2)
    path = save(figure, tmp_path / "bands.png")
    with Image.open(path) as image:
        assert image.width > 800
        assert image.convert("L").getextrema() == (0, 255)


def test_a_prediction_on_top():
    bands = cosines()
    predicted = replace(bands, energies=bands.energies + 0.1, fermi_level=-100.0)
    figure = bands_figure(bands, predicted, window=(-3.0, 12.0), labels=("OpenMX", "network"))
    below, above = (drawn(figure, colour) for colour in (OTHER_COLOUR, SERIES_COLOURS[1]))
    assert len(below) == len(above) == 6
    for one, other in zip(below, above, strict=True):
        assert other.get_ydata() == pytest.approx(one.get_ydata() + 0.1)  # one Fermi level for both
        assert other.get_zorder() > one.get_zorder()
        assert other.is_dashed()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["OpenMX", "network"]


def test_single_points_and_subscripts():
    path = k_path(LATTICE, np.array([True, True, False]), points={"A1": [0, 0, 0]})
    bands = replace(cosines(), path=path, energies=np.array([[3.0, 5.0]]))
    figure = bands_figure(bands)
    (ax,) = figure.axes
    assert [label.get_text() for label in ax.get_xticklabels()] == [r"$\mathrm{A}_{1}$"]
    assert [float(line.get_ydata()[0]) for line in ax.lines if line.get_marker() == "_"] == [-1, 1]
    save_nothing = bands_figure(bands, window=(5.0, 6.0))
    assert not [line for line in save_nothing.axes[0].lines if line.get_marker() == "_"]


def test_an_empty_window():
    with pytest.raises(TraceGradError, match=r"window is \[2.0, -2.0\]"):
        bands_figure(cosines(), window=(2.0, -2.0))


def density(bands, groups=("C s", "C p"), error=None) -> DensityOfStates:
    energies = np.linspace(2.0, 6.0, 41)
    projected = np.stack([np.exp(-((energies - centre) ** 2)) for centre in (3.0, 5.0)][: len(groups)])
    total = projected.sum(0)
    errors = None if error is None else np.full(41, error)
    return DensityOfStates(energies, total, np.cumsum(total), groups, projected, errors, 0.1, "diagonal")


@pytest.mark.parametrize("error", [None, 0.1])
def test_densities_beside_the_bands(error):
    bands = cosines()
    own, predicted = density(bands, error=error), density(bands, error=error)
    figure = bands_figure(bands, replace(bands), densities=[own, predicted])
    _, ax = figure.axes
    assert ax.get_ylim() == (-2, 2)
    totals = [line for line in ax.lines if np.array_equal(line.get_xdata(), own.total)]
    assert [to_hex(line.get_color()) for line in totals] == [OTHER_COLOUR, SERIES_COLOURS[1]]
    assert np.allclose(totals[0].get_ydata(), own.energies - 4.0)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["C s", "C p", "total"]
    assert len(ax.collections) == (0 if error is None else 2)
    alone = bands_figure(bands, densities=[density(bands, groups=("C",))])
    assert alone.axes[1].get_legend() is None
