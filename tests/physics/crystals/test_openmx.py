from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from tracegrad.errors import ConfigError
from tracegrad.physics.crystals.openmx import Openmx
from tracegrad.physics.crystals.settings import CrystalSettings
from tracegrad.physics.crystals.structures import crystal_structures

# Inputs of real calculations.
GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.dat"))


def keywords(text):
    """Values by keyword; those of tables are lists of lines."""
    found, table = {}, None
    for line in text.splitlines():
        words = line.split()
        if not words:
            continue
        if words[0].startswith("<"):
            table = found.setdefault(words[0][1:], [])
        elif words[0].endswith(">"):
            table = None
        elif table is None:
            found[words[0]] = " ".join(words[1:])
        else:
            table.append(words)
    return found


def atoms_of(words):
    rows = words["Atoms.SpeciesAndCoordinates"]
    lattice = np.array(words["Atoms.UnitVectors"], dtype=float)
    fractions = np.array([row[2:5] for row in rows], dtype=float)
    return Atoms([row[1] for row in rows], fractions @ lattice, cell=lattice, pbc=True)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_real_inputs(path):
    real = keywords(path.read_text())
    engine = Openmx(
        bases={words[0]: words[1] for words in real["Definition.of.Atomic.Species"]},
        energy_cutoff=float(real["scf.energycutoff"]),
        kmesh=[int(word) for word in real["scf.Kgrid"].split()],
        criterion=float(real["scf.criterion"]),
        max_iter=int(real["scf.maxIter"]),
    )
    written = keywords(engine.input_text(atoms_of(real), "bismuthene" in path.stem))
    bands = {name for name in real if name.startswith("Band.")}
    assert written.keys() == real.keys() - bands
    for name, value in written.items():
        if name != "Atoms.SpeciesAndCoordinates":
            assert value == real[name], name
    for one, other in zip(
        written["Atoms.SpeciesAndCoordinates"], real["Atoms.SpeciesAndCoordinates"], strict=True
    ):
        assert one[:2] + one[5:] == other[:2] + other[5:]
        np.testing.assert_allclose(np.array(one[2:5], float), np.array(other[2:5], float), atol=2e-12)


def test_the_published_recipe_of_bismuthene():
    settings = CrystalSettings(crystal="BB", structures=1)
    written = keywords(Openmx().input_text(crystal_structures(settings)[0].atoms, settings.spin))
    expected = {
        "Atoms.Number": "36",
        "scf.XcType": "GGA-PBE",
        "scf.energycutoff": "300",
        "scf.maxIter": "2000",
        "scf.Kgrid": "5 5 1",
        "scf.criterion": "4e-08",
        "scf.SpinPolarization": "nc",
        "scf.SpinOrbit.Coupling": "on",
        "scf.ElectronicTemperature": "300.0",
        "scf.ProExpn.VNA": "off",
        "HS.fileout": "on",
        "Definition.of.Atomic.Species": [["Bi", "Bi8.0-s3p2d2", "Bi_PBE19"]],
    }
    assert {name: written[name] for name in expected} == expected
    assert written["Atoms.SpeciesAndCoordinates"][0][5:] == ["7.5", "7.5", *["0.0"] * 4, "0"]
    assert "DATA.PATH" not in written


@pytest.mark.parametrize(
    ("crystal", "bases", "species", "populations"),
    [
        ("MM", "standard", {"S": "S7.0-s2p2d1", "Mo": "Mo7.0-s3p2d2"}, {"S": "3.0", "Mo": "7.0"}),
        ("MM", "light", {"S": "S7.0-s2p1d1", "Mo": "Mo7.0-s3p2d1"}, {"S": "3.0", "Mo": "7.0"}),
        ("MG", "light", {"C": "C5.0-s2p1d1"}, {"C": "2.0"}),
        ("BT", "standard", {"Te": "Te7.0-s3p2d2", "Bi": "Bi8.0-s3p2d2"}, {"Te": "8.0", "Bi": "7.5"}),
        ("BS", {"Se": "Se7.0-s3p2d2f1"}, {"Se": "Se7.0-s3p2d2f1", "Bi": "Bi8.0-s3p2d2"}, {"Se": "3.0"}),
    ],
)
def test_bases_and_populations(crystal, bases, species, populations):
    settings = CrystalSettings(crystal=crystal, structures=1)
    atoms = crystal_structures(settings)[0].atoms
    written = keywords(Openmx(bases=bases).input_text(atoms, settings.spin))
    assert {words[0]: words[1] for words in written["Definition.of.Atomic.Species"]} == species
    for row in written["Atoms.SpeciesAndCoordinates"]:
        if row[1] in populations:
            assert row[5:7] == [populations[row[1]]] * 2


def test_more_keywords_and_the_path_of_the_data(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    engine = Openmx(data_path="data", keywords={"scf.mixing.history": 50, "scf.dftD": True})
    engine.write_input(Atoms("C2", [[0, 0, 0], [0, 0, 1.4]], cell=[9, 9, 9]), False, tmp_path)
    text = (tmp_path / "openmx.dat").read_text()
    written = keywords(text)
    assert written["scf.Mixing.History"] == "50"
    assert written["scf.dftD"] == "on"
    assert written["DATA.PATH"] == "data"
    assert "scf.mixing.history" not in text


def test_k_points_are_closer_than_the_spacing():
    lattice = np.array([[4.0, 0, 0], [2.0, 5.0, 0], [0, 0, 15.0]])
    mesh = Openmx(k_spacing=0.3).mesh(lattice)
    reciprocal = 2 * np.pi * np.linalg.inv(lattice).T
    spacings = np.linalg.norm(reciprocal, axis=1)[:2] / mesh[:2]
    assert (spacings <= 0.3).all()
    assert (spacings > 0.2).all()
    assert mesh[2] == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"bases": "large"}, "bases=large is unknown"),
        ({"bases": {"C": "Mo7.0-s3p2d2"}}, "Mo7.0-s3p2d2 is no basis of C"),
        ({"bases": {"H": "H5.0-s2p1"}}, "the pseudopotential of H is not known"),
        ({"energy_cutoff": 0.0}, r"energy_cutoff=0\.0 has to be positive"),
        ({"max_iter": 0}, "max_iter=0"),
        ({"kmesh": [5, 5]}, r"kmesh=\[5, 5\] has to be three"),
        ({"keywords": {"hs.fileout": "off"}}, r"keywords: hs\.fileout follows from the structure"),
    ],
)
def test_settings_without_sense_are_refused(changed, message):
    with pytest.raises(ConfigError, match=message):
        Openmx(**changed)


def test_shells_that_do_not_exist():
    engine = Openmx(bases={"C": "C5.0-x2"})
    with pytest.raises(ConfigError, match=r"bases: basis\.shells of C"):
        engine.shells(Atoms("C"))
