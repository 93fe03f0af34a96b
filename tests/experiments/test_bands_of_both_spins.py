"""`tracegrad bands spin=both`: two spins of one structure in one figure, with one Fermi level."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments.bands import main
from tests.experiments.in_process import caller
from tests.physics.bands.toys import graphene
from tracegrad.data.crystal_files.deeph import write_structure
from tracegrad.data.crystals.structure import Structure

SPLITTING = 0.6  # eV, of all levels


@pytest.fixture
def bands(monkeypatch, capsys):
    return caller("bands", main, monkeypatch, capsys)


def of_spin(sign: int, error: float = 0.0) -> Structure:
    """Graphene with H -/+ S times half the splitting: bands of both spins are shifted, and nothing else."""
    toy = graphene()
    return replace(
        toy, fermi_level=None, hamiltonian=toy.hamiltonian + (sign * SPLITTING / 2 + error) * toy.overlap
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for spin, sign in (("up", -1), ("down", 1)):
        write_structure(of_spin(sign), tmp_path / f"toy_{spin}")
        write_structure(of_spin(sign, 0.01 * sign), tmp_path / f"guess_{spin}")
    return tmp_path / "toy"


def test_bands_level_and_densities(folder, tmp_path, bands):
    out = tmp_path / "out"
    text = bands(
        *(f"structure={folder}", "spin=both", f"predicted={tmp_path / 'guess'}", f"output={out}"),
        *("npoints=10", "electrons=2", "k_mesh=[6,6,1]", "dos=true", "smearing_width=0.01", "window=[-2,2]"),
    )
    assert text.count("2 atoms, 2 orbitals, path GMKG") == 2
    assert "gap on the path of both spins: " in text
    summary = json.loads((out / "bands.json").read_text())
    # The cones of both spins lie at +- half of the splitting; at K the mesh has no other states near them.
    assert summary["fermi_level_eV"] == pytest.approx(0.0, abs=1e-6)
    assert summary["zone"]["counted"]["electrons"] == 2
    assert summary["orbitals"] == 4
    assert list(summary["spins"]) == ["up", "down"]
    for spin, sign in (("up", 1), ("down", -1)):
        errors = summary["spins"][spin]["predicted"]["errors"]
        assert errors["eigenvalues_meV"]["mean"] == pytest.approx(-sign * 10.0, abs=1e-6)
    electrons = summary["zone"]["mulliken_electrons"]
    assert electrons["C s up"] + electrons["C s down"] == pytest.approx(2, abs=1e-6)
    assert electrons["C s up"] > electrons["C s down"]
    with (out / "bands.csv").open() as file:
        header, *rows = csv.reader(file)
    table = dict(zip(header, np.array(rows, dtype=float).T, strict=True))
    assert np.allclose(table["down_band_1_eV"] - table["up_band_1_eV"], SPLITTING)
    assert np.allclose(table["up_predicted_2_eV"] - table["up_band_2_eV"], -0.01)
    with (out / "dos.csv").open() as file:
        header, *rows = csv.reader(file)
    densities = dict(zip(header, np.array(rows, dtype=float).T, strict=True))
    parts = [densities[f"C_s_{spin}_per_eV"] for spin in ("up", "down")]
    assert np.allclose(sum(parts), densities["states_per_eV"], atol=1e-6)
    assert np.abs(parts[0] - parts[1]).max() > 0.1


def test_a_spin_whose_bands_are_all_occupied(tmp_path, bands):
    """Two electrons of one spin; the gap is that between the spins."""
    for spin, energy in (("up", -20.0), ("down", 20.0)):
        toy = of_spin(0, energy)
        write_structure(toy, tmp_path / f"toy_{spin}")
    out = tmp_path / "out"
    folder = tmp_path / "toy"
    text = bands(
        f"structure={folder}",
        f"predicted={folder}",
        "spin=both",
        f"output={out}",
        "npoints=10",
        "fermi_level=0",
        "window=[-40,40]",
    )
    assert text.count("none, all its bands are on one side of the Fermi level") == 4
    summary = json.loads((out / "bands.json").read_text())
    assert [summary["spins"][spin]["gap"] for spin in ("up", "down")] == [None, None]
    assert summary["gap"]["bands"] == [2, 3]
    assert summary["gap"]["gap"] > 20
    assert summary["predicted"]["gap"] == summary["gap"]


def test_what_is_refused(folder, tmp_path, bands):
    level = "fermi_level=0"
    assert "give both for STRUCTURE_up and STRUCTURE_down, or null" in bands(
        f"structure={folder}", "spin=up", level
    )
    assert "lonely_up" in bands(f"structure={tmp_path / 'lonely'}", "spin=both", level)
    other = of_spin(1)
    write_structure(replace(other, positions=other.positions + 0.1), tmp_path / "odd_down")
    write_structure(of_spin(-1), tmp_path / "odd_up")
    assert "not two spins of one structure" in bands(f"structure={tmp_path / 'odd'}", "spin=both", level)
