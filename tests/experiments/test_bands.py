import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.bands import main
from experiments.prediction import bands as prediction
from tests import forked
from tests.experiments.in_process import caller
from tests.physics.bands.toys import chain, graphene
from tests.physics.overlaps.gaussian_files import GaussianShell, write_pao
from tracegrad.data.crystal_files.deeph import write_structure
from tracegrad.physics.bands.bands import band_structure
from tracegrad.physics.bands.kpath import k_path, periodic_axes

FILES = ["bands.csv", "bands.json", "bands.png"]


@pytest.fixture
def bands(monkeypatch, capsys, tmp_path):
    return caller("bands", main, monkeypatch, capsys)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Graphene with different atoms, so that there is a gap at K."""
    structure = gapped()
    write_structure(structure, tmp_path / "toy")
    return tmp_path / "toy"


def gapped(difference=0.5, shift=0.0):
    structure = graphene(overlap=0.0)
    entries = structure.hamiltonian.copy()
    for n, edge in enumerate(structure.edges.tolist()):
        if edge[:3] == [0, 0, 0] and edge[3] == edge[4]:
            entries[n] = shift + (difference if edge[3] else -difference)
    return replace(structure, hamiltonian=entries)


def test_the_command(folder, tmp_path):
    done = forked.run("experiments.bands", f"structure={folder}", f"output={tmp_path / 'out'}")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("toy: 2 atoms, 2 orbitals, path GMKG (")
    assert lines[0].endswith("periodic along ab, Fermi level 0.0000 eV")
    assert lines[1].startswith(
        "gap: 1.0000 eV from K (-0.5000 eV, band 1) to K (0.5000 eV); direct 1.0000 eV at K; band edges change by"
    )
    assert lines[2] == f"wrote {tmp_path / 'out'}: bands.png, bands.csv, bands.json"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES


def test_the_files(folder, tmp_path, bands):
    out = tmp_path / "out"
    assert bands(f"structure={folder}", f"output={out}", "npoints=20", "fermi_level=0.1").startswith("toy: ")
    structure = gapped()
    path = k_path(structure.lattice, periodic_axes(structure.edges), npoints=20)
    found, _ = band_structure(structure, path)
    with (out / "bands.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header == ["k1", "k2", "k3", "distance_per_angstrom", "band_1_eV", "band_2_eV"]
    table = np.array(rows, dtype=float)
    expected = np.column_stack([path.points, path.distances, found.energies])
    assert np.abs(table - expected).max() < 1e-7
    summary = json.loads((out / "bands.json").read_text())
    assert summary["fermi_level_eV"] == 0.1
    assert summary["periodic_axes"] == "ab"
    assert [point["name"] for point in summary["special_points"]] == ["G", "M", "K", "G"]
    assert summary["bands"] == [1, 2]
    assert summary["smallest_eigenvalue_of_S"] == pytest.approx(1.0)
    assert summary["gap"]["metal"] is False
    assert summary["gap"]["gap"] == pytest.approx(1.0)
    assert summary["gap"]["conduction_at"] == "K"
    assert "predicted" not in summary
    with Image.open(out / "bands.png") as image:
        assert image.width > 800


@pytest.mark.parametrize("align", [False, True])
def test_a_prediction(folder, tmp_path, bands, align, monkeypatch):
    shown = []
    draw = prediction.bands_figure

    def figure(own, other, **rest):
        shown.append((own, other))
        return draw(own, other, **rest)

    monkeypatch.setattr(prediction, "bands_figure", figure)
    write_structure(replace(gapped(shift=0.02), overlap=None), tmp_path / "network")
    out = tmp_path / "out"
    text = bands(
        f"structure={folder}",
        f"predicted={tmp_path / 'network' / 'hamiltonians.h5'}",
        f"output={out}",
        "npoints=20",
        "window=[-9,9]",
        f"align={str(align).lower()}",
    )
    assert "predicted gap: 1.0000 eV from K (-0.4800 eV, band 1) to K (0.5200 eV)" in text
    assert "errors of 40 states from -9.00 to 9.00 eV, meV:" in text
    assert "eigenvalues: MAE 20.000, max 20.000; without the mean (+20.000) MAE 0.000, max 0.000" in text
    assert "first order: MAE 20.000, max 20.000; without the mean (+20.000) MAE 0.000, max 0.000" in text
    assert "predicted minus true number of states in the window: +0 to +0" in text
    predicted = json.loads((out / "bands.json").read_text())["predicted"]
    assert predicted["source"] == "hamiltonians.h5"
    assert predicted["gap"]["gap"] == pytest.approx(1.0)
    assert predicted["errors"]["window_eV"] == [-9.0, 9.0]
    assert predicted["errors"]["states"] == 40
    assert predicted["errors"]["eigenvalues_meV"]["mae"] == pytest.approx(20)
    assert predicted["errors"]["extra_states"] == {"fewest": 0, "most": 0, "points_that_differ": 0}
    with (out / "bands.csv").open() as file:
        assert next(csv.reader(file))[6:] == ["predicted_1_eV", "predicted_2_eV"]
    ((own, other),) = shown
    assert np.allclose(other.energies - own.energies, 0.0 if align else 0.02)


def test_paths_and_metals(tmp_path, bands):
    write_structure(chain(), tmp_path / "chain")
    given = [f"structure={tmp_path / 'chain'}", f"output={tmp_path / 'out'}"]
    text = bands(*given, "path=GA", "points={A: [0.25, 0, 0]}", "fermi_level=-0.5")
    assert "chain: 1 atoms, 1 orbitals, path GA" in text
    assert "gap: none, band 1 crosses the Fermi level or each other" in text
    text = bands(*given, "fermi_level=5")
    assert text.startswith("error: chain: 1 occupied bands, but 1 to 1 were computed; correct fermi_level")


def test_small_overlaps_are_warned_of(tmp_path, bands):
    write_structure(chain(overlap=0.49999), tmp_path / "chain")
    text = bands(f"structure={tmp_path / 'chain'}", f"output={tmp_path / 'out'}")
    assert (
        "warning: the smallest eigenvalue of S(k) is 2.0e-05: the basis is nearly linearly dependent" in text
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["structure=none"], "error: none: no such folder; give the folder of a structure"),
        (["output=x"], "error: structure is needed; give structure=VALUE"),
        (["structure=FOLDER", "window=[2,-2]"], "error: window=[2, -2] is not understood; give two numbers"),
        (["structure=FOLDER", "window=[1]"], "error: window=[1] is not understood"),
        (["structure=FOLDER", "window=[a,b]"], "error: window=['a', 'b'] is not understood"),
        (["structure=FOLDER", "points=[1,2]"], "error: points=[1, 2] is not a table"),
        (["structure=FOLDER", "points={A: 3}"], "error: points: A is 3; give three numbers"),
        (["structure=FOLDER", "path=GX"], "error: path GX: no special point X; there are G"),
        (["structure=FOLDER", "predicted=none"], "error: none: no such folder"),
        (["structure=FOLDER", "bands=0"], "error: bands is 0; at least 1 is needed"),
        (["structure=FOLDER", "bands=few"], "error: bands=few is not understood; give a whole number or null"),
        (["structure=FOLDER", "fermi_level=low"], "error: fermi_level=low is not understood; give a number or null"),
        (["structure=FOLDER", "npoints=1"], "error: npoints is 1; at least 2"),
        (["structures=FOLDER"], "error: there is no setting 'structures'; nearest: structure"),
    ],
)  # fmt: skip
def test_errors_are_one_line(folder, bands, arguments, message):
    error = bands(*(argument.replace("FOLDER", str(folder)) for argument in arguments))
    assert error.startswith(message)
    assert error.count("\n") == 1


def test_folders_without_overlaps(tmp_path, bands):
    write_structure(replace(graphene(), overlap=None), tmp_path / "toy")
    error = bands(f"structure={tmp_path / 'toy'}")
    assert error.startswith(
        f"error: {tmp_path / 'toy'}/overlaps.h5: no such file, but bands need the overlap"
    )


def test_overlaps_from_basis_files(tmp_path, bands):
    write_structure(replace(graphene(), overlap=None), tmp_path / "toy")
    write_pao(tmp_path, "C", [GaussianShell(0, 3.0)], cutoff=2.0, points=400)
    text = bands(f"structure={tmp_path / 'toy'}", f"basis_files={tmp_path}", f"output={tmp_path / 'out'}")
    assert text.startswith("toy: 2 atoms, 2 orbitals, path GMKG (")
    error = bands(f"structure={tmp_path / 'toy'}", f"basis_files={tmp_path / 'none'}")
    assert error.startswith(f"error: {tmp_path / 'none'}: cannot be read (No such file or directory)")


def test_help(bands):
    text = bands("--help")
    assert "tracegrad bands structure=structures/00" in text
    assert bands() == text
