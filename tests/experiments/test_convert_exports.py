import numpy as np
import pytest

from experiments.convert import main
from tests.experiments.in_process import caller
from tests.physics.exports.conftest import structure
from tracegrad.data.crystal_files.deeph import write_structure


@pytest.fixture
def convert(monkeypatch, capsys):
    return caller("convert", main, monkeypatch, capsys)


@pytest.fixture
def source(tmp_path):
    write_structure(structure(), tmp_path / "MoS2")
    return tmp_path / "MoS2"


def test_wannier90(tmp_path, source, convert):
    output = tmp_path / "w"
    words = [f"source={source}", f"output={output}", "to=wannier90"]
    first, warning = convert(*words).splitlines()
    assert first == f"wrote {output}: MoS2_hr.dat, MoS2.win, MoS2_centres.xyz, MoS2_overlap_hr.dat"
    assert warning.startswith("Fermi level -0.300000 eV. warning: the orbitals are not orthogonal")
    assert convert(*words).startswith(f"error: {output}: exists and holds ['MoS2.win', 'MoS2_centres.xyz'")
    lines = convert(*words, "orthogonal=true", "mesh=[5,5,1]", "overwrite=true").splitlines()
    assert "Orthogonalised (Loewdin) on 5 x 5 x 1 k-points; between them the bands are within " in lines[1]
    assert sorted(path.name for path in output.iterdir()) == ["MoS2.win", "MoS2_centres.xyz", "MoS2_hr.dat"]
    (output / "mine.txt").touch()
    assert "which overwriting would lose" in convert(*words, "overwrite=true")


def test_sisl_and_a_folder_of_structures(tmp_path, source, convert):
    sisl = pytest.importorskip("sisl")
    write_structure(structure(), tmp_path / "Other")
    output = tmp_path / "out" / "sisl"
    text = convert(f"source={tmp_path}", f"output={output}", "to=sisl")
    assert text.count("energies are relative to the Fermi level, -0.300000 eV") == 2
    files = ["MoS2.ORB_INDX", "MoS2.TSHS", "MoS2.fdf"]
    assert sorted(path.name for path in (output / "MoS2").iterdir()) == files
    read = sisl.io.siesta.tshsSileSiesta(output / "Other" / "Other.TSHS").read_hamiltonian()
    assert read.shape[0] == 18
    assert np.isfinite(read.eigh()).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["to=pythtb"], "to=pythtb is not known; choose deeph, abacus, wannier90 or sisl"),
        (["to=sisl", "orthogonal=true"], "orthogonal and mesh are for to=wannier90"),
        (["to=wannier90", "mesh=[5,5,1]"], "mesh=[5, 5, 1] is for orthogonal=true"),
        (["to=wannier90", "orthogonal=true", "mesh=5"], "mesh=5 is not understood"),
        (["to=wannier90", "orthogonal=true", "mesh=[4,5,1]"], "mesh=[4,5,1] is not understood"),
        (["to=abacus", "orthogonal=true"], "orthogonal and mesh are for to=wannier90"),
    ],
)
def test_settings_that_are_refused(tmp_path, source, convert, words, message):
    text = convert(f"source={source}", f"output={tmp_path / 'w'}", *words)
    assert text.startswith(f"error: {message}")
    assert text.count("\n") == 1
    assert not (tmp_path / "w").exists()


def test_a_structure_without_overlaps(tmp_path, source, convert):
    (source / "overlaps.h5").unlink()
    for to in ("wannier90", "sisl"):
        assert convert(f"source={source}", f"output={tmp_path / 'w'}", f"to={to}").startswith("error: ")
    assert not (tmp_path / "w").exists()
