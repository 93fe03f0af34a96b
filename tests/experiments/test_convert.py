from dataclasses import replace

import numpy as np
import pytest

from experiments.convert import main
from tests import forked
from tests.data.crystals.abacus_files import write_eigenvalues, write_run
from tests.data.crystals.scfout import INPUT, scfout, small_structure
from tests.data.crystals.test_conversion_checks import changed, crystal
from tests.data.crystals.test_openmx import assert_same
from tests.experiments.in_process import caller
from tracegrad.data.crystal_files.abacus.reader import ABACUSReader
from tracegrad.data.crystal_files.deeph import read_structure, write_structure
from tracegrad.data.crystals.bloch_matrix import BlochMatrix


def test_a_calculation_becomes_a_structure_folder(tmp_path):
    structure = small_structure(spinful=True)
    source, output = tmp_path / "openmx.scfout", tmp_path / "structures" / "00"
    source.write_bytes(scfout(structure))
    done = forked.run("experiments.convert", f"source={source}", f"output={output}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(
        f"wrote {output}: 3 atoms (2 S s1p1, 1 Mo s2p1d1), {len(structure.edges)} blocks, with spin-orbit coupling, "
        "Fermi level -4.2500 eV, largest deviation from hermiticity "
    )
    assert_same(read_structure(output, overlap=True), structure)


@pytest.fixture
def convert(monkeypatch, capsys):
    return caller("convert", main, monkeypatch, capsys)


def test_shells_and_input_from_elsewhere(tmp_path, convert):
    structure = small_structure()
    source, output = tmp_path / "openmx.scfout", tmp_path / "a"
    source.write_bytes(scfout(structure, text=""))
    (tmp_path / "a.dat").write_text(INPUT.replace("s1p1", "s5p5"))
    options = [f"source={source}", f"output={output}", f"input={tmp_path / 'a.dat'}"]
    assert convert(*options, "shells=[Mo-s2p1d1,S-s1p1]").startswith(f"wrote {output}: 3 atoms")
    assert_same(read_structure(output, overlap=True), structure)
    assert convert(*options, "shells=[Mo-s2p1d1,S-s1p1]").startswith(f"error: {output}: exists and holds")
    assert convert(*options, "shells=[Mo7.0-s2p1d1,S-s1p1]", "overwrite=true").startswith("wrote")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["source=none.scfout", "output=x"],
            "error: none.scfout: no such file or folder; give structure folders of DeepH, .scfout files",
        ),
        (["source=none.scfout"], "error: output is needed; give output=VALUE"),
        (["source=a", "output=x", "shells=s2p1d1"], "error: shells=s2p1d1 is not a list"),
        (["source=a", "output=x", "spin=left"], "error: spin=left; give up, down or both"),
        (["source=a", "output=x", "to=vasp"], "error: to=vasp is not known; choose deeph, abacus"),
        (["sauce=a"], "error: there is no setting 'sauce'; nearest: source"),
    ],
)
def test_errors_are_one_line(convert, arguments, message):
    error = convert(*arguments)
    assert error.startswith(message)
    assert error.count("\n") == 1


def test_both_spins(tmp_path, convert):
    up = small_structure()
    down = replace(up, hamiltonian=1.5 * up.hamiltonian)
    output = tmp_path / "structures" / "00"
    write_run(tmp_path / "run", up, down)
    (tmp_path / "run.scfout").write_bytes(scfout(up, down=down))
    for source, name in (("run", "a"), ("run/OUT.ABACUS", "b"), ("run.scfout", "c")):
        text = convert(f"source={tmp_path / source}", f"output={output}{name}", "spin=both")
        assert f"wrote {output}{name}_up: 3 atoms" in text
        assert "spin down, Fermi level" in text
        for spin, expected in (("up", up), ("down", down)):
            assert_same(read_structure(f"{output}{name}_{spin}", overlap=True), expected, 1e-11)
    assert "spin up" in convert(f"source={tmp_path / 'run'}", f"output={tmp_path / 'x'}", "spin=up")
    error = convert(f"source={tmp_path / 'run'}", f"output={tmp_path / 'y'}")
    assert "choose one with spin=up or spin=down" in error
    write_run(tmp_path / "several" / "00", up, down)
    write_run(tmp_path / "several" / "01", down, up)
    convert(f"source={tmp_path / 'several'}", f"output={tmp_path / 'all'}", "spin=both")
    names = sorted(path.name for path in (tmp_path / "all").iterdir())
    assert names == ["00_down", "00_up", "01_down", "01_up"]


def test_checks_before_anything_is_written(tmp_path, convert):
    structure, k = crystal(), np.array([[0.1, 0.2, 0.3]])
    output = write_run(tmp_path / "run", structure)
    h, s = (BlochMatrix(structure, matrix).at(k[0]).toarray() for matrix in ("hamiltonian", "overlap"))
    energies = np.sort(np.linalg.eigvals(np.linalg.solve(s, h)).real)[None, None]
    write_eigenvalues(output, structure, k, energies, "older")
    options = [f"source={output}", "check=true"]
    text = convert(*options, f"output={tmp_path / 'a'}")
    assert "checked OUT.ABACUS: overlaps are symmetric about their bonds" in text
    assert "istate.info by at most" in text
    assert text.splitlines()[-1].startswith(f"wrote {tmp_path / 'a'}")
    write_eigenvalues(output, structure, k, 2 * energies, "older")
    error = convert(*options, f"output={tmp_path / 'b'}")
    assert error.startswith("error: OUT.ABACUS: eigenvalues differ")
    assert "hartree taken for rydberg" in error
    assert not (tmp_path / "b").exists()
    for n, one in enumerate((structure, changed(structure, "overlap", signs=np.array([1, -1, -1, 1])))):
        write_structure(one, tmp_path / "two" / f"{n}")
    error = convert(f"source={tmp_path / 'two'}", f"output={tmp_path / 'c'}", "check=true")
    assert "error: 1: overlaps are symmetric about their bonds" in error
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["0"]


def test_hamiltonians_for_abacus(tmp_path, convert):
    structure, folder, output = small_structure(), tmp_path / "00", tmp_path / "start"
    write_structure(structure, folder)
    (folder / "overlaps.h5").unlink()
    options = [f"source={folder}", f"output={output}", "to=abacus", "overlap=false"]
    assert convert(*options) == (
        f"wrote {output}: hrs1_nao.csr: 1 Mo, 2 S (the order of the structure); STRU needs the atoms as this file "
        "has them\n"
    )
    found = ABACUSReader(output, ["Mo-s2p1d1", "S-s1p1"]).read("start", ["hamiltonian"])
    np.testing.assert_allclose(found.hamiltonian[:100], structure.hamiltonian[:100], atol=1e-9)
    assert "holds ['hrs1_nao.csr']; choose another place or set overwrite=true" in convert(*options)
    assert convert(*options, "overwrite=true").startswith("wrote")
    (output / "STRU").write_text("mine")
    assert "holds ['STRU'], which overwriting would lose; choose another place" in convert(
        *options, "overwrite=true"
    )
    assert sorted(path.name for path in output.iterdir()) == ["STRU", "hrs1_nao.csr"]


def test_shells_of_a_format_that_has_them(tmp_path, convert):
    write_structure(small_structure(), tmp_path / "00")
    error = convert(f"source={tmp_path / '00'}", f"output={tmp_path / 'x'}", "shells=[Mo-s2p1d1]")
    assert error.startswith("error: shells is given, but structure folders of DeepH have their shells")


def test_help(convert):
    text = convert("--help")
    assert "tracegrad convert source=openmx.scfout output=structures/00" in text
    assert convert() == text
