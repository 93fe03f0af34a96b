from dataclasses import replace

import numpy as np
import pytest

from experiments.convert import main
from tests.experiments.in_process import caller
from tests.physics.exports.conftest import structure
from tracegrad.data.crystal_files.abacus.reader import ABACUSReader
from tracegrad.data.crystal_files.deeph import write_structure
from tracegrad.data.crystals.bloch_matrix import BlochMatrix


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
        (["to=pythtb"], "to=pythtb is not known; choose deeph, abacus, siesta, wannier90 or sisl"),
        (["to=sisl", "orthogonal=true"], "orthogonal and mesh are for to=wannier90"),
        (["to=wannier90", "mesh=[5,5,1]"], "mesh=[5, 5, 1] is for orthogonal=true"),
        (["to=wannier90", "orthogonal=true", "mesh=5"], "mesh=5 is not understood"),
        (["to=wannier90", "orthogonal=true", "mesh=[4,5,1]"], "mesh=[4,5,1] is not understood"),
        (["to=abacus", "orthogonal=true"], "orthogonal and mesh are for to=wannier90"),
        (["to=sisl", "electrons=7"], "electrons is for to=siesta, where states are occupied"),
        (["to=siesta", "smearing=cold"], "smearing=cold is not one of gaussian, fermi-dirac and null"),
        (["to=siesta", "electrons=7", "k_mesh=[3,3]"], "k_mesh=[3, 3] is not understood"),
        (["to=siesta", "electrons=7", "smearing=null"], "MoS2: 7 electrons fill band 4 only in part"),
    ],
)
def test_settings_that_are_refused(tmp_path, source, convert, words, message):
    text = convert(f"source={source}", f"output={tmp_path / 'w'}", *words)
    assert text.startswith(f"error: {message}")
    assert text.count("\n") == 1
    assert not (tmp_path / "w").exists()


def test_a_structure_without_overlaps(tmp_path, source, convert):
    (source / "overlaps.h5").unlink()
    for to in ("wannier90", "sisl", "siesta"):
        assert convert(f"source={source}", f"output={tmp_path / 'w'}", f"to={to}").startswith("error: ")
    assert not (tmp_path / "w").exists()


@pytest.fixture
def predicted(tmp_path):
    """Folders of both spins, as `predict` writes them, and H of each."""
    up = structure()
    down = replace(up, hamiltonian=up.hamiltonian + 0.4 * up.overlap)
    for spin, one in (("up", up), ("down", down)):
        write_structure(one, tmp_path / "predicted" / f"layer_{spin}")
    return tmp_path / "predicted" / "layer", {"up": up, "down": down}


def test_abacus_starts_from_both_spins(tmp_path, predicted, convert):
    source, structures = predicted
    text = convert(f"source={source}", "spin=both", f"output={tmp_path / 'start'}", "to=abacus")
    assert text.startswith(f"wrote {tmp_path / 'start'}: hrs1_nao.csr: 1 Mo, 2 S")
    assert text.splitlines()[1].startswith("hrs2_nao.csr: 1 Mo, 2 S")
    files = sorted(path.name for path in (tmp_path / "start").iterdir())
    assert files == ["hrs1_nao.csr", "hrs2_nao.csr"]
    for n, (spin, expected) in enumerate(structures.items(), start=1):
        head = (tmp_path / "start" / f"hrs{n}_nao.csr").read_text()[:200]
        assert f" 2 # number of spin directions\n {n} # spin index\n" in head
        reader = ABACUSReader(tmp_path / "start", ["Mo-s2p1d1", "S-s1p1"], spin)
        found = reader.read("start", ["hamiltonian"])
        k = np.array([0.1, -0.2, 0.0])
        bands = (
            np.linalg.eigvalsh(BlochMatrix(one, "hamiltonian").at(k).toarray()) for one in (found, expected)
        )
        np.testing.assert_allclose(*bands, atol=1e-9)
    folder = convert(f"source={source.parent}", "spin=both", f"output={tmp_path / 'all'}", "to=abacus")
    assert folder == text.replace(str(tmp_path / "start"), str(tmp_path / "all"))


def test_siesta_starts_from_both_spins(tmp_path, predicted, convert):
    sisl = pytest.importorskip("sisl")
    source, _ = predicted
    words = [f"source={source}_up", "spin=both", f"output={tmp_path / 'start'}", "to=siesta"]
    error = convert(*words)
    assert error.startswith("error: layer_up: the valence electrons of S, Mo are not known")
    assert error.endswith("or electrons=NUMBER of the cell\n")
    assert not (tmp_path / "start").exists()
    text = convert(*words, "valence={Mo: 5, S: 1}", "k_mesh=[3,3,1]", "smearing_width=0.3")
    first, remark = text.splitlines()
    assert first == f"wrote {tmp_path / 'start'}: layer.DM, layer.fdf"
    up, down = (float(word) for word in remark.split(" down")[0].split(" up and "))
    assert up + down == pytest.approx(7, abs=2e-4)
    settings = (tmp_path / "start" / "layer.fdf").read_text()
    assert "\nSystemLabel layer\nDM.UseSaveDM true\nSpin polarized\nNumberOfAtoms 3\n" in settings
    read = sisl.io.siesta.dmSileSiesta(tmp_path / "start" / "layer.DM").read_density_matrix()
    assert read.spin.is_polarized
    assert read.shape[0] == 18
