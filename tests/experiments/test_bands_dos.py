"""Fermi levels by counting and densities of states, from the command line."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments.bands import main
from experiments.prediction import bands as prediction
from experiments.prediction import zone
from tests.experiments.in_process import caller
from tests.experiments.test_bands import gapped
from tests.physics.bands.toys import chain, graphene, supercell
from tests.physics.overlaps.gaussian_files import GaussianShell, write_pao
from tracegrad.data.crystal_files.deeph import write_structure

SMALL = ("npoints=6", "k_mesh=[6,6,1]")


@pytest.fixture
def bands(monkeypatch, capsys):
    return caller("bands", main, monkeypatch, capsys)


@pytest.fixture
def folder(tmp_path) -> Path:
    write_structure(replace(gapped(shift=-1.0), fermi_level=None), tmp_path / "toy")
    return tmp_path / "toy"


def table(path: Path) -> dict[str, np.ndarray]:
    with path.open() as file:
        head, *rows = csv.reader(file)
    return dict(zip(head, np.array(rows, dtype=float).T, strict=True))


def test_an_insulator(folder, tmp_path, bands):
    out = tmp_path / "out"
    text = bands(f"structure={folder}", f"output={out}", "electrons=2", "dos=true", *SMALL, "window=[-9,9]")
    assert "periodic along ab, Fermi level -1.0000 eV" in text
    assert "mesh 6 x 6 x 1 (20 points), 2 electrons: gap 1.0000 eV from (0.333, " in text
    assert "; Fermi level -1.0000 eV, in its middle" in text
    assert text.endswith(f"wrote {out}: bands.png, bands.csv, bands.json, dos.csv\n")
    found = json.loads((out / "bands.json").read_text())["zone"]
    assert (found["method"], found["k_mesh"], found["points"]) == ("diagonal", [6, 6, 1], 20)
    assert found["counted"]["gap"] == pytest.approx(1.0)
    assert found["mulliken_electrons"] == {"C s": pytest.approx(2.0)}
    columns = table(out / "dos.csv")
    assert list(columns) == [
        "energy_eV", "energy_minus_fermi_eV", "states_per_eV", "states_below", "C_s_per_eV"
    ]  # fmt: skip
    assert np.abs(columns["energy_eV"] - columns["energy_minus_fermi_eV"] + 1.0).max() < 1e-8
    assert columns["states_below"][[0, -1]] == pytest.approx([0, 4], abs=1e-6)
    middle = np.abs(columns["energy_minus_fermi_eV"]).argmin()
    assert columns["states_below"][middle] == pytest.approx(2, abs=1e-4)


def test_a_metal(tmp_path, bands):
    write_structure(chain(), tmp_path / "chain")
    given = (f"structure={tmp_path / 'chain'}", f"output={tmp_path / 'out'}", "npoints=6", "k_mesh=[60,1,1]")
    text = bands(
        *given, "valence={C: 1}", "smearing=fermi-dirac", "smearing_width=0.02", "dos=true", "processes=1"
    )
    assert (
        "1 electrons: a metal, band 1 is partly filled; Fermi level 0.0000 eV with fermi-dirac smearing"
        in text
    )
    summary = json.loads((tmp_path / "out" / "bands.json").read_text())
    assert summary["fermi_level_eV"] == pytest.approx(0, abs=1e-3)
    assert summary["zone"]["counted"]["smearing"] == "fermi-dirac"
    assert summary["zone"]["mulliken_electrons"]["C s"] == pytest.approx(1, abs=1e-8)
    assert "mesh" not in bands(*given)  # the level of the structure
    assert "mesh 60 x 1 x 1" in bands(*given, "valence={C: 1}")
    assert "mesh 60 x 1 x 1" not in bands(*given, "valence={C: 1}", "fermi_level=0.3")


@pytest.mark.parametrize("method", ["diagonal", "polynomial"])
def test_a_prediction(folder, tmp_path, bands, method):
    """The prediction is shifted by 0.3 eV, and so are its density of states and its Fermi level."""
    write_structure(replace(gapped(shift=-0.7), overlap=None), tmp_path / "network")
    out = tmp_path / "out"
    text = bands(
        *(f"structure={folder}", f"predicted={tmp_path / 'network'}", f"output={out}", *SMALL, "electrons=2"),
        *("dos=true", f"dos_method={method}", "dos_vectors=4", "dos_width=0.3", "window=[-9,9]"),
    )
    assert "predicted, mesh 6 x 6 x 1 (20 points), 2 electrons: gap 1.0000 eV" in text
    assert ("4 random vectors at each of 20 points; at the Fermi level" in text) == (method == "polynomial")
    columns = table(out / "dos.csv")
    assert ("predicted_error_per_eV" in columns) == (method == "polynomial")
    energies = columns["energy_eV"]
    moved = np.interp(energies - 0.3, energies, columns["states_per_eV"])
    scale = columns["states_per_eV"].max()
    tolerance = 0.02 if method == "diagonal" else 0.3  # other random vectors
    assert np.abs(columns["predicted_states_per_eV"] - moved)[20:-20].max() < tolerance * scale
    summary = json.loads((out / "bands.json").read_text())
    assert summary["predicted"]["zone"]["counted"]["level"] == pytest.approx(-0.7)
    assert (len(summary["zone"].get("moments", [])) == 20) == (method == "polynomial")


def test_large_cells_are_counted_from_some_bands(folder, tmp_path, bands, monkeypatch):
    monkeypatch.setattr(zone, "LARGEST_DENSE", 1)
    text = bands(f"structure={folder}", f"output={tmp_path / 'out'}", "electrons=2", *SMALL)
    assert "electrons: gap 1.0000 eV from (0.333, " in text
    assert json.loads((tmp_path / "out" / "bands.json").read_text())["zone"]["method"] == "search"


def test_charges_in_basis_files(tmp_path, bands):
    write_structure(replace(graphene(), overlap=None, fermi_level=None), tmp_path / "toy")
    write_pao(tmp_path, "C", [GaussianShell(0, 3.0)], cutoff=2.0, points=400, valence="1.0")
    given = (f"structure={tmp_path / 'toy'}", f"basis_files={tmp_path}", f"output={tmp_path / 'out'}", *SMALL)
    assert "(20 points), 2 electrons: " in bands(*given)
    assert "(20 points), 1 electrons: a metal" in bands(*given, "valence={C: 0.5}")


def test_nearly_singular_overlaps(tmp_path, bands):
    """States of a nearly singular combination are projected out, and ghosts below the Fermi level are named."""
    write_structure(chain(hopping=1.0, overlap=0.4999), tmp_path / "chain")
    given = (f"output={tmp_path / 'out'}", "npoints=5", "fermi_level=0")
    text = bands(f"structure={tmp_path / 'chain'}", *given)
    assert "warning: up to 1 ghost states at a point below the Fermi level" in text
    assert json.loads((tmp_path / "out" / "bands.json").read_text())["ghost_states"] == 1
    write_structure(supercell(chain(hopping=1.0, overlap=0.4999), (2, 1)), tmp_path / "pair")
    text = bands(f"structure={tmp_path / 'pair'}", *given, "overlap_threshold=0.1")
    assert "warning: up to 1 of 2 directions at a point were projected out" in text
    assert "ghost" not in text
    assert json.loads((tmp_path / "out" / "bands.json").read_text())["projected_out"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the valence electrons of C are not known, so the Fermi level cannot be counted; give 'valence={C: NUM"),
        (["fermi_level=count"], "the valence electrons of C are not known"),
        (["fermi_level=soon"], "fermi_level=soon is not understood; give a number or null (eV), or count"),
        (["electrons=-2"], "electrons=-2 is not understood; give a number above 0"),
        (["electrons=9"], "9 electrons do not fit 2 bands of 2 each; correct electrons or valence"),
        (["electrons=3", "smearing=null"], "3 electrons fill band 2 only in part, so it is a metal; set smearing="),
        (["electrons=2", "smearing=cold"], "smearing=cold is not one of gaussian, fermi-dirac and null"),
        (["electrons=2", "smearing_width=0"], "smearing_width=0 is not understood; give a number above 0"),
        (["valence={Xy: 4}"], "valence: 'Xy' is no element"),
        (["valence=4"], "valence=4 is not a table"),
        (["valence={N: 5}"], "the valence electrons of C are not known"),
        (["electrons=2", "k_mesh=[6,6,2]"], "k_mesh=[6, 6, 2]: no block connects cells along c, where there is vac"),
        (["electrons=2", "k_mesh=6"], "k_mesh=6 is not understood; give three whole numbers"),
        (["electrons=2", "dos=true", "dos_method=fast"], "dos_method=fast is not one of auto, diagonal, polynomial"),
        (["electrons=2", "dos=true", "dos_width=0"], "dos_width=0 is not understood"),
        (["electrons=2", "dos=true", "dos_groups=orbital"], "dos_groups=orbital is not one of element, shell"),
        (["electrons=2", "dos=true", "dos_groups={a: [3]}"], "dos_groups: a has the atom 3, but there are atom"),
        (["electrons=2", "dos=true", "dos_vectors=1"], "dos_vectors=1 is not understood; give a whole number"),
        (["electrons=2", "overlap_threshold=-1"], "overlap_threshold=-1 is not understood"),
        (["electrons=2", "overlap_threshold=-0.5"], "overlap_threshold=-0.5 is below 0; give 0 for none"),
    ],
)  # fmt: skip
def test_errors_are_one_line(folder, tmp_path, bands, arguments, message):
    out = tmp_path / "out"
    arguments = [
        "npoints=4",
        *(["k_mesh=[2,2,1]"] if not any("k_mesh" in a for a in arguments) else []),
        *arguments,
    ]
    error = bands(f"structure={folder}", f"output={out}", *arguments)
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_memory_and_time(folder, tmp_path, bands, monkeypatch):
    given = (f"structure={folder}", f"output={tmp_path / 'out'}", "electrons=2", "dos=true", *SMALL)
    monkeypatch.setattr(prediction, "_WORTH_FORECAST", 0)
    text = bands(*given, "processes=1")
    assert text.startswith(
        "forecast, bands on the path: 7 k points of 2 orbitals, less than 1 s in 1 process, 576 "
    )
    assert (
        "\nforecast, all states on the mesh: 20 k points of 2 orbitals, less than 1 s in 1 process, 576 b"
        in text
    )
    monkeypatch.setattr(prediction, "available_memory", lambda: 500)
    error = bands(*given)
    assert error.startswith(
        "error: bands on the path: 1 process needs about 576 bytes of memory, but 500 bytes are free; set "
        "dos_method=polynomial and bands=60"
    )
    monkeypatch.setattr(prediction, "available_memory", lambda: 1000)
    assert "2 processes need about 1.2 kB of memory, but 1.0 kB are free; set processes=1" in bands(
        *given, "processes=2"
    )
    assert "wrote" in bands(*given)  # as many processes as there is memory for
