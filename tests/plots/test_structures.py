import numpy as np
import pytest
from ase import Atoms
from matplotlib.collections import LineCollection, PatchCollection, PolyCollection

from tests.data.crystals.scfout import small_structure
from tests.plots.test_plots import check_png, texts
from tracegrad.errors import DataError
from tracegrad.physics.crystals.settings import CrystalSettings
from tracegrad.physics.crystals.structures import crystal_structures
from tracegrad.plots.structures import Picture, picture_of, structures_figure
from tracegrad.plots.style import SERIES_COLOURS


def made(**values):
    return crystal_structures(CrystalSettings(**values))


def shown(ax, kind):
    return [collection for collection in ax.collections if isinstance(collection, kind)]


def balls(ax):
    return sum(len(collection.get_paths()) for collection in shown(ax, PatchCollection))


def halves(ax):
    return sum(len(collection.get_segments()) for collection in shown(ax, LineCollection))


def labels(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_thermal_motion(tmp_path):
    entries = made(crystal="MG", structures=2)
    pictures = [
        Picture(entries[0].name, entries[0].atoms),
        Picture(entries[1].name, entries[1].atoms, entries[1].displacements),
    ]
    figure = structures_figure(pictures, "graphene")
    check_png(figure, tmp_path, (1000, 500))
    top = figure.axes[:2]
    assert [balls(ax) for ax in figure.axes] == [72] * 4
    assert [halves(ax) for ax in figure.axes] == [3 * 72] * 4
    assert [ax.get_title() for ax in top] == ["MG_0", "MG_1"]
    assert labels(figure) == ["C"]
    arrows = [len(shown(ax, PolyCollection)) for ax in figure.axes]
    assert arrows == [0, 1, 0, 1]
    assert any("6 times the displacement" in text for text in texts(figure))


def test_twisted_layers_have_colours(tmp_path):
    entries = made(crystal="BG", angles=[21.8, 6.0])
    figure = structures_figure([Picture(entry.name, entry.atoms) for entry in entries])
    check_png(figure, tmp_path, (1000, 600))
    assert labels(figure) == ["layer 1", "layer 2"]
    # The small cell is drawn 2 x 2.
    assert [balls(ax) for ax in figure.axes[:2]] == [4 * 28, 364]
    assert [halves(ax) for ax in figure.axes[:2]] == [3 * 4 * 28, 3 * 364]
    for collection, colour in zip(shown(figure.axes[1], PatchCollection), SERIES_COLOURS, strict=False):
        faces = np.rint(255 * collection.get_facecolor()[:, :3]).astype(int)
        assert {"#{:02x}{:02x}{:02x}".format(*face) for face in faces.tolist()} == {colour}
    # The first lattice vector points right.
    (outline,) = figure.axes[1].lines
    assert np.ptp(outline.get_ydata()[:2]) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("crystal", "elements"), [("MM", ["S", "Mo"]), ("BT", ["Te", "Bi"])])
def test_compounds_have_the_colours_of_elements(tmp_path, crystal, elements):
    (entry,) = made(crystal=crystal, structures=1, amplitude=0.0)
    figure = structures_figure([Picture(crystal, entry.atoms)])
    check_png(figure, tmp_path, (600, 600))
    assert labels(figure) == elements
    # Mo has 6 neighbours of S; a quintuple layer 2 x (3 + 3) bonds a cell.
    bonds = {"MM": 25 * 6, "BT": 18 * 12}[crystal]
    assert halves(figure.axes[0]) == 2 * bonds


def test_atoms_on_both_sides_of_the_border_are_one_layer():
    (entry,) = made(crystal="BG", structures=1, amplitude=0.0, shifts="none")
    one = structures_figure([Picture("a", entry.atoms)])
    moved = entry.atoms.copy()
    moved.positions[:, 2] += 8.0
    moved.wrap()
    other = structures_figure([Picture("a", moved)])
    for ax, bx in zip(one.axes, other.axes, strict=True):
        assert halves(ax) == halves(bx)
        np.testing.assert_allclose(ax.get_ylim(), bx.get_ylim(), atol=1e-6)


def test_structures_of_databases(tmp_path):
    figure = structures_figure([picture_of(small_structure(name="cell"))])
    check_png(figure, tmp_path, (600, 300))
    assert figure.axes[0].get_title() == "cell"


@pytest.mark.parametrize("count", [0, 7])
def test_too_few_or_many(count):
    atoms = Atoms("C", cell=[3, 3, 3], pbc=True)
    with pytest.raises(DataError, match=f"1 to 6 can be drawn, not {count}"):
        structures_figure([Picture("a", atoms)] * count)
